"""The plain level is what CPUs of other kinds get: every kernel of a model compiles for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mlc_llm.kernels.cpu import target
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.lowering import compile_module
from mlc_llm.models.decoder import build_step
from mlc_llm.quantization.scheme import scheme_by_name
from support import small_models


@pytest.mark.parametrize("quantization", ["q0f32", "q4f16_1"])
def test_a_model_compiles_for_aarch64(monkeypatch: pytest.MonkeyPatch, quantization: str) -> None:
    machine = {"kind": "llvm", "mtriple": "aarch64-linux-gnu"}
    monkeypatch.setitem(target._TARGETS, Level.GENERIC, machine)
    module = build_step(small_models.architecture(), scheme_by_name(quantization), Level.GENERIC)
    executable = compile_module(module, Level.GENERIC)
    [assembly] = [m.inspect_source("asm") for m in _modules(executable.mod) if m.kind == "llvm"]
    assert "fmul\tv" in assembly  # vectors of NEON
    assert "zmm" not in assembly


def _modules(module: Any) -> Iterator[Any]:
    yield module
    for imported in module.imports:
        yield from _modules(imported)
