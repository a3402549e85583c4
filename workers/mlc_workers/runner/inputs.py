"""A Plan as the integer arrays of `step`. Pure NumPy, in buffers that are made once."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlc_llm.compiler.abi import MAX_ROWS, MAX_SHARED, PAGE_SIZE, SEGMENT_TOKENS, TILE_ROWS
from mlc_llm.weights.memory import huge_empty
from mlc_workers.scheduler.plan import Plan, Span

Ints = NDArray[np.int32]


class Inputs(NamedTuple):
    """Arguments of `step` that differ from step to step; views that the next step overwrites."""

    ids: Ints
    positions: Ints
    slots: Ints
    tiles: Ints
    last: Ints
    taken: Ints


class InputBuilder:
    """Fills the arrays of one step after the other. `page_table` is the cache's array itself: a
    tile names the row of its sequence there. `threads` share the `kv_heads` of attention."""

    def __init__(
        self, page_table: Ints, kv_heads: int, threads: int, max_rows: int = MAX_ROWS
    ) -> None:
        self._page_table = page_table
        self._max_rows = max_rows
        self._kv_heads = kv_heads
        self._threads = threads
        self._count = np.arange(max_rows, dtype=np.int32)
        self._ids, self._positions, self._slots, self._last, self._taken = (
            huge_empty((max_rows,), np.int32).view(np.int32) for _ in range(5)
        )
        self._tiles = huge_empty((max_rows, 4), np.int32).view(np.int32)

    def build(self, plan: Plan) -> Inputs:
        """The arrays for `plan`, which has at most `max_rows` tokens, at least one in each span."""
        spans = plan.spans
        lengths = np.array([len(span.tokens) for span in spans], np.int32)
        rows = np.array([span.row for span in spans], np.int32)
        starts = np.array([span.start for span in spans], np.int32)
        ends = lengths.cumsum(dtype=np.int32)
        n = int(ends[-1])
        if n > self._max_rows:
            raise ValueError(f"a step of {n} tokens exceeds the {self._max_rows} it may have")
        tokens = chain.from_iterable(span.tokens for span in spans)
        self._ids[:n] = np.fromiter(tokens, np.int32, n)
        firsts = ends - lengths
        np.add(self._count[:n], np.repeat(starts - firsts, lengths), out=self._positions[:n])
        self._place(n, np.repeat(rows, lengths))
        num_tiles = self._tile(firsts, lengths, rows)
        self._tiles[:num_tiles, 3] = self._parts(num_tiles, n)
        reads = any(span.num_read for span in spans)
        wanted = ends[[span.sample for span in spans]] - 1
        if reads:
            wanted = self._wanted(spans, firsts, ends)
        self._last[: len(wanted)] = wanted
        num_taken = self._take(spans, firsts) if reads else 0
        return Inputs(
            self._ids[:n],
            self._positions[:n],
            self._slots[:n],
            self._tiles[:num_tiles],
            self._last[: len(wanted)],
            self._taken[:num_taken],
        )

    def _wanted(self, spans: tuple[Span, ...], firsts: Ints, ends: Ints) -> Ints:
        """Rows whose logits are wanted, in the order of the plan."""
        found: list[Ints] = [self._count[:0]]
        for span, first, end in zip(spans, firsts.tolist(), ends.tolist(), strict=True):
            start = first + span.first_read
            if span.pooled:
                continue
            found.append(self._count[start : start + span.num_read])
            if span.sample:
                found.append(self._count[end - 1 : end])
        return np.concatenate(found)

    def _take(self, spans: tuple[Span, ...], firsts: Ints) -> int:
        """Rows whose hidden states are wanted; returns how many there are."""
        count = 0
        for span, first in zip(spans, firsts, strict=True):
            if span.pooled:
                start = first + span.first_read
                rows = self._count[start : start + span.num_read]
                self._taken[count : count + len(rows)] = rows
                count += len(rows)
        return count

    def _place(self, n: int, rows: Ints) -> None:
        """slots = page * PAGE_SIZE + position % PAGE_SIZE."""
        pages, offsets = np.divmod(self._positions[:n], PAGE_SIZE)
        np.multiply(self._page_table[rows, pages], PAGE_SIZE, out=self._slots[:n])
        self._slots[:n] += offsets

    def _tile(self, firsts: Ints, lengths: Ints, rows: Ints) -> int:
        """Cut each span into tiles of TILE_ROWS; returns how many there are."""
        counts = -(-lengths // TILE_ROWS)
        ends = counts.cumsum(dtype=np.int32)
        num_tiles = int(ends[-1])
        done = (self._count[:num_tiles] - np.repeat(ends - counts, counts)) * TILE_ROWS
        tiles = self._tiles[:num_tiles]
        tiles[:, 0] = np.repeat(firsts, counts) + done
        tiles[:, 1] = np.minimum(np.repeat(lengths, counts) - done, TILE_ROWS)
        tiles[:, 2] = np.repeat(rows, counts)
        return num_tiles

    def _parts(self, num_tiles: int, n: int) -> int:
        """Tasks that share each of the tiles of n rows.

        Decode reads the cache once: the fewer the parts, the longer the runs that each reads. The
        tiles of a prompt read it again and again: one head of it stays in the core's cache.
        """
        if num_tiles < n:
            return self._kv_heads
        heads = num_tiles * self._kv_heads
        if heads >= self._threads or heads > MAX_SHARED:
            return fewest_parts(self._kv_heads, self._threads)
        longest = int(self._positions[:n].max()) + 1
        segments = (longest + SEGMENT_TOKENS // 2) // SEGMENT_TOKENS
        return self._kv_heads * fewest_spans(heads, segments, self._threads)


def fewest_parts(heads: int, threads: int) -> int:
    """The least divisor of `heads` that gives every thread a part, or all heads."""
    return next((d for d in range(threads, heads) if heads % d == 0), heads)


@lru_cache(maxsize=1024)
def fewest_spans(heads: int, segments: int, threads: int) -> int:
    """By how many tasks each of so many contexts of so many segments is attended to soonest.

    Threads take equal shares of all tasks, rounded up; to add up what tasks have come to takes
    about as long as half a segment.
    """

    def lasts(spans: int) -> float:
        return -(-heads * spans // threads) * -(-segments // spans) + 0.5 * (spans > 1)

    return min(range(1, min(segments, threads) + 1), key=lasts, default=1)
