"""Compile one kernel and call it on NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray

from mlc_llm.kernels.cpu.level import REQUIRED_FLAGS, Level, cpu_flags
from mlc_llm.kernels.cpu.lowering import compile_module

Array = NDArray[Any]

LEVELS = [
    pytest.param(
        level,
        marks=pytest.mark.skipif(
            not cpu_flags() >= REQUIRED_FLAGS[level], reason=f"this CPU has no {level.value}"
        ),
        id=level.value,
    )
    for level in Level
]


class Kernel:
    """A compiled kernel; arguments are copied to aligned memory."""

    def __init__(self, level: Level, function: tvm.tirx.PrimFunc) -> None:
        module = tvm.IRModule({"kernel": function.with_attr("global_symbol", "kernel")})
        self._run = compile_module(module, level)["kernel"]

    def __call__(self, *inputs: Array, outputs: list[Array]) -> list[Array]:
        """Run on `inputs` and on copies of `outputs`, which come back."""
        return self.run(*inputs, *outputs)[len(inputs) :]

    def run(self, *arguments: Array | int) -> list[Array]:
        """Run on copies of the arrays, which come back as the kernel left them."""
        found = [
            a if isinstance(a, int) else tvm.runtime.tensor(np.ascontiguousarray(a))
            for a in arguments
        ]
        self._run(*found)
        return [np.asarray(a) if isinstance(a, int) else a.numpy() for a in found]


def filled(*shape: int, dtype: str = "float32") -> Array:
    """An output whose unwritten elements show: NaN, or a strange number."""
    if dtype.startswith("float"):
        return np.full(shape, np.nan, dtype)
    return np.full(shape, 0x5A5A if dtype == "uint16" else 0x5A5A5A5A, dtype)


def quantized_outputs(n: int, width: int) -> list[Array]:
    """What `quantize` writes to."""
    tiles, groups = -(-n // 8), -(-width // 32)
    return [
        filled(tiles, groups, 8, 8, dtype="int32"),
        filled(tiles, groups, 8),
        filled(tiles, groups, 8, dtype="int32"),
    ]
