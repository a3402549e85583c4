"""float8 e4m3fn (1 sign, 4 exponent, 3 mantissa bits; no infinity) as float32 and back.

Format: Micikevicius et al., "FP8 formats for deep learning", 2022. 0x7F and 0xFF are NaN, the
largest number is 448.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlc_llm.quantization.floats import FloatArray

E4M3_MAX = 448.0


def widen_e4m3(bits: NDArray[np.uint8]) -> FloatArray:
    """The values whose bits are given."""
    return np.take(_VALUES, bits)


def round_e4m3(values: FloatArray) -> NDArray[np.uint8]:
    """Bits of the nearest numbers, ties to even; what is beyond 448 becomes 448, NaN stays NaN."""
    clipped = np.clip(values, -E4M3_MAX, E4M3_MAX)
    bits = clipped.view(np.uint32)
    sign = (bits >> np.uint32(24)) & np.uint32(0x80)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    half = np.uint32(0x7FFFF) + (magnitude >> np.uint32(20) & np.uint32(1))
    normal = ((magnitude + half) >> np.uint32(20)) - np.uint32(120 << 3)
    # Below 2**-6 numbers are multiples of 2**-9; eight of them are the first normal number.
    small = np.rint(np.abs(clipped) * np.float32(512))
    with np.errstate(invalid="ignore"):
        codes = np.where(magnitude < np.uint32(121 << 23), small.astype(np.uint32), normal)
    codes = np.where(np.isnan(values), np.uint32(0x7F), codes)
    return (sign | codes).astype(np.uint8)


def _values() -> FloatArray:
    codes = np.arange(128)
    exponent, mantissa = codes >> 3, codes & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    positive = np.where(exponent == 0, mantissa * 2.0**-9, normal)
    positive[127] = np.nan
    return np.concatenate([positive, -positive]).astype(np.float32)


_VALUES = _values()
