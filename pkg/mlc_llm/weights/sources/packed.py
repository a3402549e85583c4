"""Hugging Face checkpoints of GPTQ and AWQ: codes with a scale and a zero point for each group.

For a matrix [N, K], with 32 / bits codes to a word, the first in the lowest bits:

    GPTQ   X.qweight [K / codes, N]   X.qzeros [G, N / codes]   X.scales [G, N]   X.g_idx [K]
    AWQ    X.qweight [K, N / 8]       X.qzeros [G, N / 8]       X.scales [G, N]

Column k is (code - zero) * scale of group g_idx[k]; without g_idx groups are runs of columns. AWQ
deals eight codes to a word out of order (`quantization.decode.AWQ_SHIFTS`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc_llm.models.quantized import Quantized
from mlc_llm.quantization.floats import FloatArray
from mlc_llm.weights.source import (
    DecodedTensor,
    StoredTensor,
    decoded,
    read_columns,
    read_floats,
    read_rows,
)
from mlc_llm.weights.sources.mlc import SCALES, awq_matrix

WORDS = ("I32", "U32")
LEAVES = ("qweight", "qzeros", "scales", "g_idx")


def decode_packed(
    tensors: Mapping[str, StoredTensor], config: Quantized
) -> dict[str, StoredTensor]:
    """The tensors with every four (or three) made one matrix; raises `BadModel` for wrong ones."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        base, _, leaf = name.rpartition(".")
        if leaf not in LEAVES or f"{base}.qweight" not in tensors:
            found[name] = tensor
        elif leaf == "qweight":
            parts = _Parts(base, tensors)
            make = _gptq if config.method == "gptq" else _awq
            found[f"{base}.weight"] = make(parts, config)
    return found


class _Parts:
    """The tensors of one matrix, checked as they are taken."""

    def __init__(self, base: str, tensors: Mapping[str, StoredTensor]) -> None:
        self.base = base
        self._tensors = tensors
        self.words = self._take("qweight", WORDS)
        self.zeros = self._take("qzeros", WORDS)
        self.scales = self._take("scales", SCALES)
        self.groups = self._tensors.get(f"{base}.g_idx")

    def _take(self, leaf: str, dtypes: tuple[str, ...]) -> StoredTensor:
        tensor = self._tensors.get(f"{self.base}.{leaf}")
        if tensor is None:
            raise self._tensors[f"{self.base}.qweight"].fault(f"has no {leaf} beside it")
        if tensor.dtype not in dtypes:
            raise tensor.fault(f"has dtype {tensor.dtype}; supported here: {', '.join(dtypes)}")
        if len(tensor.shape) != 2 or 0 in tensor.shape:
            raise tensor.fault(f"has shape {list(tensor.shape)}, which is no matrix")
        return tensor

    def expect(self, tensor: StoredTensor, *shape: int) -> None:
        if tensor.shape != shape:
            raise tensor.fault(f"has shape {list(tensor.shape)} where {list(shape)} is expected")


def _awq(parts: _Parts, config: Quantized) -> DecodedTensor:
    cols, width = parts.words.shape
    groups = parts.scales.shape[0]
    parts.expect(parts.scales, groups, width * 8)
    parts.expect(parts.zeros, groups, width)
    if cols % groups:
        raise parts.scales.fault(f"has {groups} groups, which do not divide {cols} columns")
    return awq_matrix(f"{parts.base}.weight", parts.words, parts.zeros, parts.scales)


def _gptq(parts: _Parts, config: Quantized) -> DecodedTensor:
    per_word = 32 // config.bits
    cols, rows = parts.words.shape[0] * per_word, parts.words.shape[1]
    groups = parts.scales.shape[0]
    parts.expect(parts.scales, groups, rows)
    parts.expect(parts.zeros, groups, -(-rows // per_word))
    words, zeros, scales = parts.words, parts.zeros, parts.scales
    known: list[NDArray[np.intp]] = []

    def values(first: int, last: int) -> FloatArray:
        if not known:  # read once; twice at the same time does no harm
            known.append(_group_of(parts, cols, groups))
        codes = _fields(read_columns(words, first, last), config.bits)
        begin, end = first // per_word, -(-last // per_word)
        every = np.ascontiguousarray(read_columns(zeros, begin, end).T)
        points = _fields(every, config.bits)[:, first - begin * per_word :][:, : last - first]
        points = (points + config.zero_offset) & ((1 << config.bits) - 1)
        some = read_floats(scales, first, last, True)
        found = codes.astype(np.float32)
        found -= points.T.astype(np.float32)[:, known[0]]
        found *= some[:, known[0]]
        return found

    return decoded(words, f"{parts.base}.weight", (rows, cols), values)


def _group_of(parts: _Parts, cols: int, groups: int) -> NDArray[np.intp]:
    """The group of every column."""
    tensor = parts.groups
    if tensor is None:
        if cols % groups:
            raise parts.scales.fault(f"has {groups} groups, which do not divide {cols} columns")
        return np.arange(cols) // (cols // groups)
    if tensor.dtype not in WORDS:
        raise tensor.fault(f"has dtype {tensor.dtype}; supported here: {', '.join(WORDS)}")
    parts.expect(tensor, cols)
    found = read_rows(tensor, 0, cols).astype(np.intp)
    if found.min() < 0 or found.max() >= groups:
        raise tensor.fault(f"names a group outside of {groups}")
    return found


def _fields(words: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """Codes [a, b * 32 / bits] of words [a, b], the first in the lowest bits."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    found = words.view(np.uint32)[:, :, None] >> shifts & np.uint32((1 << bits) - 1)
    return found.reshape(len(words), -1).astype(np.int32)
