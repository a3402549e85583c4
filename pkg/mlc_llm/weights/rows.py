"""Rows of a parameter from where they are stored: floats, or q4f16_1 quantized on the way.

Values are checked here: a NaN, an infinity or a number the target cannot hold is a `BadModel` that
names the tensor, not a wrong answer hours later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlc_llm.quantization.encode import quantize_bytes
from mlc_llm.quantization.floats import (
    FloatArray,
    round_bfloats_to_halves,
    widen_bfloats,
    widen_halves,
)
from mlc_llm.quantization.group import Quantized
from mlc_llm.quantization.scheme import CODES, WeightFormat
from mlc_llm.quantization.search import Search, quantize_closest
from mlc_llm.weights.binding import Stored, StoredFloats, StoredWords
from mlc_llm.weights.source import DecodedTensor, StoredTensor, read_columns, read_rows

AnyArray = NDArray[Any]
RowReader = Callable[[int, int], FloatArray | Quantized]
"""Gives rows first..last - 1 of a parameter."""


class Conversion(NamedTuple):
    """From stored rows to float32, and the largest magnitude that may come out."""

    convert: Callable[[AnyArray], FloatArray]
    limit: float


def row_reader(stored: Stored, weights: WeightFormat, search: Search | None = None) -> RowReader:
    """How to read a parameter for a kernel that wants `weights`.

    Floats come as float32, already rounded to float16 values for "f16"; "q4" and "q8" give
    `Quantized`. `search` is for floats that become "q4".
    """
    if isinstance(stored, StoredWords):
        return lambda first, last: _words(stored, first, last)
    if weights in CODES and (groups := group_reader(stored, CODES[weights].bits)) is not None:
        return groups
    if weights == "q4":
        return lambda first, last: quantize_closest(
            _stacked(stored, first, last, _TO_HALVES), search
        )
    if weights == "q8":
        return lambda first, last: quantize_bytes(_stacked(stored, first, last, _TO_HALVES))
    conversions = _TO_SINGLES if weights == "f32" else _TO_HALVES
    return lambda first, last: _stacked(stored, first, last, conversions)


def group_reader(stored: StoredFloats, bits: int) -> RowReader | None:
    """How to read a parameter as the groups it lies in; None when it does not lie in such."""
    pieces = stored.pieces
    if stored.transposed or stored.offset:
        return None
    coded = [p for p in pieces if isinstance(p, DecodedTensor) and p.group_bits == bits]
    if len(coded) != len(pieces):
        return None

    def read(first: int, last: int) -> Quantized:
        found = []
        for i, begin, end in _overlaps([p.shape[0] for p in pieces], first, last) or [(0, 0, 0)]:
            groups = coded[i].groups
            assert groups is not None
            found.append(groups(begin, end))
            if not np.isfinite(found[-1].scales).all():
                raise coded[i].fault("holds a scale that is not finite")
        return Quantized(_joined([q.words for q in found]), _joined([q.scales for q in found]))

    return read


def _words(stored: StoredWords, first: int, last: int) -> Quantized:
    words, scales = [], []
    axis, read = (1, read_columns) if stored.transposed else (0, read_rows)
    sizes = [tensor.shape[axis] for tensor in stored.scales]
    for i, begin, end in _overlaps(sizes, first, last) or [(0, 0, 0)]:
        words.append(read(stored.words[i], begin, end))
        scales.append(_scales(stored.scales[i], read(stored.scales[i], begin, end)))
    return Quantized(_joined(words), _joined(scales))


def _scales(tensor: StoredTensor, found: AnyArray) -> NDArray[np.float16]:
    """As float16, whatever they are stored in."""
    with np.errstate(over="ignore"):
        wide = widen_bfloats(found) if tensor.dtype == "BF16" else found
        scales = wide.astype(np.float16, copy=False)
    if not np.isfinite(scales).all():
        raise tensor.fault(f"holds a value that is not finite or beyond {_HALF_MAX:.4g}")
    return scales


def _overlaps(sizes: Sequence[int], first: int, last: int) -> list[tuple[int, int, int]]:
    """Which pieces rows first..last - 1 of all of them touch: (piece, its first row, its last)."""
    found, start = [], 0
    for i, size in enumerate(sizes):
        begin, end = max(first - start, 0), min(last - start, size)
        if begin < end:
            found.append((i, begin, end))
        start += size
    return found


def _joined(parts: Sequence[AnyArray]) -> AnyArray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _stacked(
    stored: StoredFloats, first: int, last: int, conversions: dict[str, Conversion]
) -> FloatArray:
    """Rows of the pieces taken as one tensor."""
    pieces, axis = stored.pieces, 1 if stored.transposed else 0
    read = read_columns if stored.transposed else read_rows
    parts = [
        _floats(pieces[i], read(pieces[i], begin, end), conversions[pieces[i].dtype])
        for i, begin, end in _overlaps([piece.shape[axis] for piece in pieces], first, last)
    ]
    if not parts:
        return np.empty((0, *pieces[0].shape[1 - axis : 2 - axis]), np.float32)
    return _joined(parts) + np.float32(stored.offset) if stored.offset else _joined(parts)


def _floats(piece: StoredTensor, rows: AnyArray, conversion: Conversion) -> FloatArray:
    with np.errstate(over="ignore", invalid="ignore"):
        values = conversion.convert(rows)
        low, high = values.min(), values.max()
    # A NaN makes both extremes NaN, and no comparison with a NaN is true.
    if not (low >= -conversion.limit and high <= conversion.limit):
        raise piece.fault(f"holds a value that is not finite or beyond {conversion.limit:.4g}")
    return values


def _round_singles(rows: AnyArray) -> FloatArray:
    return widen_halves(rows.astype(np.float16).view(np.uint16))


_SINGLE_MAX = float(np.finfo(np.float32).max)
_HALF_MAX = float(np.finfo(np.float16).max)
_TO_SINGLES = {
    "F32": Conversion(lambda rows: rows, _SINGLE_MAX),
    "F16": Conversion(lambda rows: widen_halves(rows.view(np.uint16)), _SINGLE_MAX),
    "BF16": Conversion(widen_bfloats, _SINGLE_MAX),
}
_TO_HALVES = {
    "F32": Conversion(_round_singles, _HALF_MAX),
    "F16": Conversion(lambda rows: widen_halves(rows.view(np.uint16)), _HALF_MAX),
    "BF16": Conversion(round_bfloats_to_halves, _HALF_MAX),
}
