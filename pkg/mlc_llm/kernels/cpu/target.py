"""The compiler target of a level, which never asks for more than the CPU has."""

from __future__ import annotations

import tvm

from mlc_llm.kernels.cpu.level import Level

_TARGETS: dict[Level, dict[str, object]] = {
    Level.AVX512_BF16: {
        "kind": "llvm",
        "mcpu": "x86-64-v4",
        "mattr": ["+avx512vnni", "+avx512bf16"],
    },
    Level.AVX512_VNNI: {"kind": "llvm", "mcpu": "x86-64-v4", "mattr": ["+avx512vnni"]},
    Level.AVX_VNNI: {"kind": "llvm", "mcpu": "x86-64-v3", "mattr": ["+avxvnni"]},
    Level.AVX2: {"kind": "llvm", "mcpu": "x86-64-v3"},
    Level.SSE4: {"kind": "llvm", "mcpu": "x86-64-v2"},
    Level.GENERIC: {"kind": "llvm"},
}


def target(level: Level) -> tvm.target.Target:
    """The compiler target of `level`, by feature and not by CPU name: a name may promise features
    that a hypervisor has masked."""
    return tvm.target.Target(dict(_TARGETS[level]))
