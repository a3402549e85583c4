"""float16 and bfloat16 bit patterns as float32 arrays, by integer arithmetic.

NumPy converts float16 element by element and knows no bfloat16; these run at memory speed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BitArray = NDArray[np.uint16]


def widen_halves(bits: BitArray) -> FloatArray:
    """The float16 values whose bits are given."""
    wide = bits.astype(np.uint32)
    if bool((wide & np.uint32(0x7C00) == 0x7C00).any()):
        return bits.view(np.float16).astype(np.float32)  # keeps infinities and NaNs what they are
    sign = (wide & np.uint32(0x8000)) << np.uint32(16)
    wide &= np.uint32(0x7FFF)
    wide <<= np.uint32(13)
    # The exponent is biased by 15 where float32 has 127; the product also normalises subnormals.
    magnitude = wide.view(np.float32)
    magnitude *= np.float32(2.0**112)
    wide |= sign
    return magnitude


def widen_bfloats(bits: BitArray) -> FloatArray:
    """The bfloat16 values whose bits are given."""
    wide = bits.astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def round_bfloats_to_halves(bits: BitArray) -> FloatArray:
    """The bfloat16 values, each rounded to the nearest float16; beyond 65504 they stay beyond it.

    bfloat16 has 8 significant bits and float16 has 11, so only float16's subnormals round: to
    multiples of 2**-24, which is the distance of float32 numbers near 0.75. Every larger value is a
    multiple of 2**-21 and passes the sum unchanged.
    """
    values = widen_bfloats(bits)
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        values += np.float32(0.75)
        values -= np.float32(0.75)
    return values
