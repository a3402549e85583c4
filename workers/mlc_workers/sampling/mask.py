"""Which tokens of a row may be picked, in the form that is cheapest to apply to the row.

Few tokens are a list of ids, and the row is looked at nowhere else. Many are a row of 0 and -inf to
add. Both are made from the bits of a grammar while the device computes the row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]
Ids = NDArray[np.int64]
Words = NDArray[np.uint32]

FEW = 256
"""From here on a row of biases costs less than finding the ids and gathering them."""

_BIASES: Row = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little") == 1,
    np.float32(0),
    np.float32(-np.inf),
)
"""What eight tokens get, by the byte of their bits."""


class Mask:
    """The tokens of one row. `words` and `room` are kept: no copy is made."""

    __slots__ = ("_bias", "_words", "ids")

    def __init__(self, words: Words, vocab_size: int, room: Row) -> None:
        """Bit i % 32 of word i // 32 lets token i through, if i < vocab_size.

        `room`: 32 values for each word, to be overwritten.
        """
        self._words = words
        self.ids: Ids | None = None
        """The tokens in order, where they are few."""
        self._bias: Row | None = None
        if int(np.bitwise_count(words).sum()) <= FEW:
            self.ids = _ids(words, vocab_size)
            return
        np.take(_BIASES, words.view(np.uint8), axis=0, out=room.reshape(-1, 8), mode="clip")
        self._bias = room[:vocab_size]

    @property
    def num_allowed(self) -> int:
        """Tokens that may be picked."""
        if self.ids is not None:
            return len(self.ids)
        assert self._bias is not None
        return int(np.count_nonzero(self._bias == 0))

    def count(self, ids: Ids) -> int:
        """How many of these may be picked."""
        return int(np.count_nonzero(self._words[ids >> 5] >> (ids & 31).astype(np.uint32) & 1))

    def apply(self, row: Row) -> Row:
        """A new row: of the tokens `ids` alone; with `ids` None, of all, the others at -inf."""
        if self.ids is not None:
            return row[self.ids]
        assert self._bias is not None
        return np.asarray(row + self._bias)


def _ids(words: Words, vocab_size: int) -> Ids:
    """The bits that are set, ascending."""
    at = np.flatnonzero(words)
    set_bits = np.flatnonzero(np.unpackbits(words[at].view(np.uint8), bitorder="little"))
    ids = at[set_bits // 32] * 32 + set_bits % 32
    return ids[: np.searchsorted(ids, vocab_size)]
