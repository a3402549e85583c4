"""Random numbers without state: one function of seed, choice and position.

So the same seed gives the same text alone and in a batch, before and after a preemption. The
generator is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): the number at a position is a mix of
the key plus so many steps of the golden ratio, and can be asked for in any order.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def stream_key(seed: int, index: int) -> int:
    """The key of choice `index` of a request with this seed (any integer, taken modulo 2**64)."""
    return _mix(_mix((seed + _GOLDEN) & _MASK) + index * _GOLDEN & _MASK)


def uniform(key: int, position: int) -> float:
    """A number in [0, 1), a multiple of 2**-53."""
    return (_mix(key + (position + 1) * _GOLDEN & _MASK) >> 11) * 2.0**-53


def _mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)
