"""What TVM's machine is left to do around the kernels of a step."""

from __future__ import annotations

from collections import Counter

import pytest
import tvm
from tvm import relax

from mlc_llm.kernels.cpu.calls import lower_calls
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.models.architecture import Architecture, Experts, Latent
from mlc_llm.models.decoder import build_step
from mlc_llm.quantization.scheme import scheme_by_name
from support.small_models import architecture

EXPERTS = {
    "rotary_dim": 16, "head_dim": 32, "num_key_value_heads": 1,
    "latent": Latent(rank=32, rope_dim=16, nope_dim=16, value_dim=16, query_rank=40),
    "experts": Experts(
        count=4, per_token=2, intermediate_size=40, layers=(1, 2), shared_size=72
    ),
}  # fmt: skip
"""Experts and an MLP beside them, attention over latents."""


def lowered(arch: Architecture) -> list[relax.VarBinding]:
    """The bindings of a step with 4-bit weights."""
    module = build_step(arch, scheme_by_name("q4f16_1"), Level.AVX2)
    bindings: list[relax.VarBinding] = list(lower_calls(module)["step"].body.blocks[0].bindings)
    return bindings


def callee(binding: relax.VarBinding) -> str:
    """The name of what is called; a weight's for a weight."""
    value = binding.value
    if isinstance(value, relax.TupleGetItem):
        return "a weight"
    if isinstance(value.op, relax.ExternFunc):
        return str(value.op.global_symbol)
    return "a kernel" if isinstance(value.op, tvm.ir.GlobalVar) else str(value.op.name)


def test_more_layers_call_more_kernels_and_nothing_else() -> None:
    few, many = (Counter(map(callee, lowered(architecture(num_hidden_layers=n)))) for n in (3, 9))
    assert set(many - few) == {"a kernel", "a weight"}


def test_no_tuple_is_made_and_no_weight_is_read_twice() -> None:
    bindings = lowered(architecture())
    read = [b.value.index for b in bindings if isinstance(b.value, relax.TupleGetItem)]
    assert read == sorted(set(read))
    assert not any(isinstance(binding.value, relax.Tuple) for binding in bindings)


def test_inputs_are_checked_and_weights_are_left_to_the_kernels() -> None:
    checked = [b for b in lowered(architecture()) if callee(b) == "vm.builtin.check_tensor_info"]
    assert len(checked) == 11


@pytest.mark.parametrize("more", [{}, EXPERTS])
def test_all_memory_is_planned_before(more: dict[str, object]) -> None:
    asked = [b for b in lowered(architecture(**more)) if "alloc_storage" in callee(b)]
    sizes = [binding.value.args[0] for binding in asked]
    assert all(isinstance(size.values[0], tvm.tirx.IntImm) for size in sizes)
    assert len(asked) < 30
