"""Which vector instructions the CPU has.

Knows no compiler (see `target`), so that the engine can ask. Knows no kernel: those ask a `Level` for
its traits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from msgspec import Struct

from mlc_llm.errors import BadConfig

LEVEL_VARIABLE = "MLC_CPU_LEVEL"
CPUINFO = Path("/proc/cpuinfo")


class Level(Enum):
    """An instruction set the kernels are written for, best first."""

    AVX512_BF16 = "avx512_bf16"
    AVX512_VNNI = "avx512_vnni"
    AVX_VNNI = "avx_vnni"
    AVX2 = "avx2"
    SSE4 = "sse4"
    GENERIC = "generic"


class Traits(Struct, frozen=True):
    """What a kernel needs to know about a level."""

    lanes: int
    """float32 values of one register."""
    tile_rows: int
    """Token rows whose sums fit the registers together; divides 8."""
    fma: bool
    """A fused multiply-add instruction; without one LLVM calls libm."""
    half: bool
    """An instruction that widens float16; without one LLVM calls its runtime."""
    bf16: bool = False
    """An instruction that multiplies pairs of bfloat16."""


TRAITS = {
    Level.AVX512_BF16: Traits(lanes=16, tile_rows=8, fma=True, half=True, bf16=True),
    Level.AVX512_VNNI: Traits(lanes=16, tile_rows=8, fma=True, half=True),
    Level.AVX_VNNI: Traits(lanes=8, tile_rows=4, fma=True, half=True),
    Level.AVX2: Traits(lanes=8, tile_rows=4, fma=True, half=True),
    Level.SSE4: Traits(lanes=4, tile_rows=2, fma=False, half=False),
    Level.GENERIC: Traits(lanes=4, tile_rows=2, fma=False, half=False),
}

_V2 = frozenset({"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"})
_V3 = _V2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}

REQUIRED_FLAGS = {
    Level.AVX512_BF16: _V4 | {"avx512_vnni", "avx512_bf16"},
    Level.AVX512_VNNI: _V4 | {"avx512_vnni"},
    Level.AVX_VNNI: _V3 | {"avx_vnni"},
    Level.AVX2: _V3,
    Level.SSE4: _V2,
    Level.GENERIC: frozenset[str](),
}
"""Flags, as Linux spells them, that make a CPU able to run a level."""


def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Flags of the first processor, which a hypervisor may have masked; empty where unknown."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":")[2] for line in lines if line.startswith("flags"))
    return frozenset(next(found, "").split())


def detect(environ: Mapping[str, str] = os.environ, flags: frozenset[str] | None = None) -> Level:
    """The best level this CPU runs, or the one that MLC_CPU_LEVEL forces.

    Raises `BadConfig` when the forced level is unknown or the CPU lacks it.
    """
    have = cpu_flags() if flags is None else flags
    able = [level for level in Level if have >= REQUIRED_FLAGS[level]]
    forced = environ.get(LEVEL_VARIABLE, "").strip()
    if not forced:
        return able[0]
    for level in able:
        if level.value == forced.lower():
            return level
    names = ", ".join(level.value for level in able)
    raise BadConfig(f"{LEVEL_VARIABLE}={forced} cannot be used on this CPU; use one of {names}")
