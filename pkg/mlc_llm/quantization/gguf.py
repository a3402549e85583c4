"""Blocks of GGUF files as float32 values. Pure array functions on bytes [n, nbytes of a row].

In every format a row is cut into blocks, each with its own scale; d and m are float16:

    Q4_0   d, 16 bytes             value j: low nibble of byte j, j + 16: its high one;  (q - 8) d
    Q4_1   d, m, 16 bytes          the same;  q d + m
    Q5_0   d, 32 bits, 16 bytes    a fifth bit for each value;  (q - 16) d
    Q5_1   d, m, 32 bits, 16 bytes q d + m
    Q8_0   d, 32 signed bytes      q d
    Q4_K   d, m, 12 bytes of eight 6-bit scales and minima, 128 bytes;  q d s - m t
    Q5_K   the same with 32 bytes of fifth bits before the 128
    Q6_K   128 bytes of low nibbles, 64 of two high bits, 16 signed scales, d;  (q - 32) d s
    Q2_K   16 bytes of 4-bit scales (low) and minima, 64 bytes, d, m;  q d s - m t
    Q3_K   32 bytes of third bits, 64 bytes of two low bits, sixteen 6-bit scales, d;  (q - 4) d s
    IQ4_NL as Q4_0, but nibbles are indices of a table;  T[q] d
    IQ4_XS d, 16 high bits and 4 bytes of low nibbles of eight 6-bit scales, 128 bytes;  T[q] d s

The layouts are those of llama.cpp's ggml-common.h. 6-bit scales without a minimum count from -32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from mlc_llm.quantization.floats import FloatArray
from mlc_llm.quantization.group import Quantized

Bytes = NDArray[np.uint8]
"""[blocks, bytes of a block]"""

_MIDDLE = np.float32(8)
_CURVE = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
"""What the codes of IQ4 types stand for: closer together around zero."""
_PAIRS = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
"""Shifts to the four pairs of bits of a byte."""


def _halves(blocks: Bytes, at: int) -> FloatArray:
    """The float16 at byte `at` of every block, [blocks, 1]."""
    pair = np.ascontiguousarray(blocks[:, at : at + 2])
    return pair.view("<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """Low nibbles, then high ones, of each row."""
    found: Bytes = np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=1)
    return found


def _fifth_bits(blocks: Bytes, at: int) -> Bytes:
    """16 for every value whose bit is set in the 32 bits at byte `at`, [blocks, 32]."""
    bits: Bytes = np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little")
    return bits << np.uint8(4)


def _q4_0(blocks: Bytes) -> FloatArray:
    values = _nibbles(blocks[:, 2:]).astype(np.float32)
    values -= _MIDDLE
    values *= _halves(blocks, 0)
    return values


def _q4_1(blocks: Bytes) -> FloatArray:
    return _nibbles(blocks[:, 4:]) * _halves(blocks, 0) + _halves(blocks, 2)


def _q5_0(blocks: Bytes) -> FloatArray:
    codes = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return (codes.astype(np.float32) - np.float32(16)) * _halves(blocks, 0)


def _q5_1(blocks: Bytes) -> FloatArray:
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return codes * _halves(blocks, 0) + _halves(blocks, 2)


def _q8_0(blocks: Bytes) -> FloatArray:
    values: FloatArray = blocks[:, 2:].view(np.int8).astype(np.float32)
    values *= _halves(blocks, 0)
    return values


def _k_scales(packed: Bytes) -> tuple[FloatArray, FloatArray]:
    """Eight scales and eight minima of six bits each from 12 bytes, [blocks, 8] both."""
    low, middle, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6) << 4], axis=1)
    minima = np.concatenate([middle & 63, (high >> 4) | (middle >> 6) << 4], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _k_values(blocks: Bytes, codes: Bytes) -> FloatArray:
    """Codes [blocks, 8, 32] with the scales and minima at the beginning of the blocks."""
    scales, minima = _k_scales(blocks[:, 4:16])
    scales *= _halves(blocks, 0)
    minima *= _halves(blocks, 2)
    values: FloatArray = codes.astype(np.float32)
    values *= scales[:, :, None]
    values -= minima[:, :, None]
    return values.reshape(len(blocks), -1)


def _k_nibbles(packed: Bytes) -> Bytes:
    """128 bytes as [blocks, 8, 32]: 32 bytes have two runs of values, the low ones first."""
    runs = packed.reshape(len(packed), 4, 1, 32)
    codes: Bytes = np.concatenate([runs & np.uint8(15), runs >> np.uint8(4)], axis=2)
    return codes.reshape(len(packed), 8, 32)


def _q4_k(blocks: Bytes) -> FloatArray:
    return _k_values(blocks, _k_nibbles(blocks[:, 16:]))


def _q5_k(blocks: Bytes) -> FloatArray:
    """Bit i of the 32 bytes belongs to run i."""
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    fifth: Bytes = (blocks[:, None, 16:48] >> shifts & np.uint8(1)) << np.uint8(4)
    return _k_values(blocks, _k_nibbles(blocks[:, 48:]) | fifth)


def _pairs_of_bits(packed: Bytes) -> Bytes:
    """64 bytes as [blocks, 8, 32]: 32 bytes have four runs of values, the low bits first."""
    found: Bytes = packed.reshape(-1, 2, 1, 32) >> _PAIRS & np.uint8(3)
    return found.reshape(-1, 8, 32)


def _q2_k(blocks: Bytes) -> FloatArray:
    scales = (blocks[:, :16] & np.uint8(15)).astype(np.float32) * _halves(blocks, 80)
    minima = (blocks[:, :16] >> np.uint8(4)).astype(np.float32) * _halves(blocks, 82)
    values: FloatArray = _pairs_of_bits(blocks[:, 16:80]).astype(np.float32).reshape(-1, 16, 16)
    values *= scales[:, :, None]
    values -= minima[:, :, None]
    return values.reshape(len(blocks), -1)


def _q3_k(blocks: Bytes) -> FloatArray:
    """Bit i of the 32 bytes belongs to run i. Low nibbles of scales lie in eight bytes, the low
    ones first, pairs of high bits in four."""
    third = blocks[:, None, :32] >> np.arange(8, dtype=np.uint8)[:, None] & np.uint8(1)
    codes: Bytes = _pairs_of_bits(blocks[:, 32:96]) | third << np.uint8(2)
    high: Bytes = (blocks[:, None, 104:108] >> _PAIRS & np.uint8(3)).reshape(-1, 16)
    six = (_nibbles(blocks[:, 96:104]) | high << np.uint8(4)).astype(np.float32)
    six -= np.float32(32)
    values = codes.astype(np.float32).reshape(-1, 16, 16) - np.float32(4)
    values *= (six * _halves(blocks, 108))[:, :, None]
    return values.reshape(len(blocks), -1)


def _iq4_nl(blocks: Bytes) -> FloatArray:
    values: FloatArray = _CURVE[_nibbles(blocks[:, 2:])]
    values *= _halves(blocks, 0)
    return values


def _iq4_xs(blocks: Bytes) -> FloatArray:
    low = np.stack([blocks[:, 4:8] & np.uint8(15), blocks[:, 4:8] >> np.uint8(4)], axis=2)
    high = (blocks[:, 2:4, None] >> _PAIRS[:, 0] & np.uint8(3)).reshape(-1, 8)
    six = (low.reshape(-1, 8) | high << np.uint8(4)).astype(np.float32) - np.float32(32)
    codes = _nibbles(blocks[:, 8:].reshape(-1, 16)).reshape(-1, 8, 32)
    values: FloatArray = _CURVE[codes]
    values *= (six * _halves(blocks, 0))[:, :, None]
    return values.reshape(len(blocks), -1)


def _q6_k(blocks: Bytes) -> FloatArray:
    """Both halves of a block: 64 bytes of low nibbles and 32 of high bits make four runs of 32."""
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    nibbles = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    high = _pairs_of_bits(blocks[:, 128:192]).reshape(-1, 2, 4, 32)
    values: FloatArray = (nibbles | high << 4).astype(np.float32).reshape(-1, 16, 16)
    values -= np.float32(32)
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32) * _halves(blocks, 208)
    values *= scales[:, :, None]
    return values.reshape(len(blocks), -1)


DECODERS: Mapping[str, Callable[[Bytes], FloatArray]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
}
"""From blocks [n, bytes] to values [n, values of a block]."""


def as_groups(rows: Bytes) -> Quantized:
    """Rows of Q4_0 blocks [n, 18 groups] as q4f16_1, value for value.

    (q - 8) d is ((15 - q) - 7) (-d): codes are turned round and scales take the other sign.
    """
    count = len(rows)
    blocks = rows.reshape(-1, 18)
    codes = np.uint8(15) - _nibbles(blocks[:, 2:])
    words = (codes[:, 0::2] | codes[:, 1::2] << 4).view("<u4")
    scales = np.ascontiguousarray(blocks[:, :2]).view("<f2")
    return Quantized(words.reshape(count, -1), -scales.reshape(count, -1))


def as_byte_groups(rows: Bytes) -> Quantized:
    """Rows of Q8_0 blocks [n, 34 groups] as q8f16_1: q d is ((q + 127) - 127) d.

    Writers of Q8_0 leave out -128, for which there is no code: it becomes -127.
    """
    count = len(rows)
    blocks = rows.reshape(-1, 34)
    codes = np.maximum(blocks[:, 2:].view(np.int8), np.int8(-127)).view(np.uint8) + np.uint8(127)
    scales = np.ascontiguousarray(blocks[:, :2]).view("<f2")
    return Quantized(codes.view("<u4").reshape(count, -1), scales.reshape(count, -1))


GROUPS: Mapping[str, tuple[int, Callable[[Bytes], Quantized]]] = {
    "Q4_0": (4, as_groups),
    "Q8_0": (8, as_byte_groups),
}
"""Types that are groups of 32 with a scale each as our kernels read them, and their bits."""
