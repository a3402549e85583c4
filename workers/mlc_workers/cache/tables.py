"""The page-table array that the runner reads, and what one sequence owns of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlc_llm.weights.memory import huge_empty
from mlc_workers.cache.pages import CacheCorrupt


class Sequence:
    """The KV of one sequence: pages in order, the first `length` positions computed.

    `writable` is how far it may write without asking: all of its pages, except that a partial last
    page shared by a fork is not writable until it is copied (or its other readers have left).
    `num_registered` full pages are known to the prefix cache.
    """

    __slots__ = ("length", "num_registered", "pages", "row", "writable")

    def __init__(self, row: int) -> None:
        self.row = row
        self.pages: list[int] = []
        self.length = 0
        self.writable = 0
        self.num_registered = 0


class PageTable:
    """int32[max_num_sequence, max_pages]: row r lists the pages of the sequence that has row r.

    Entries past a sequence's pages are stale and never read. Aligned as the device wants it.
    """

    def __init__(self, max_num_sequence: int, max_pages: int) -> None:
        self.array: NDArray[np.int32] = huge_empty((max_num_sequence, max_pages), np.int32).view(
            np.int32
        )
        self.array[:] = 0
        self._free = list(range(max_num_sequence - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def reserve(self) -> int:
        """A free row. The caller has checked `num_free`."""
        return self._free.pop()

    def release(self, row: int) -> None:
        self._free.append(row)

    def audit(self, sequences: list[Sequence]) -> None:
        """Prove that each row has one owner and says what its owner holds."""
        rows = sorted([*self._free, *(sequence.row for sequence in sequences)])
        if rows != list(range(self.array.shape[0])):
            raise CacheCorrupt(f"rows are lost or used twice: {rows}")
        for sequence in sequences:
            if self.array[sequence.row, : len(sequence.pages)].tolist() != sequence.pages:
                raise CacheCorrupt(f"row {sequence.row} does not list its sequence's pages")
