"""What the files of a family call the weights, and how their values lie there. Names only.

Our own names are those of `models.parameters`. A layout maps the module of a name (what is between
`model.layers.3.` and `.weight`, or all of it outside the layers) to what the file calls it; modules
that it leaves out have our name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
from msgspec import Struct

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")

STACKED: Mapping[str, tuple[str, ...]] = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
"""What most families store apart."""

EXPERTS: Mapping[str, str | tuple[str, ...]] = {
    **STACKED,
    "mlp": "mlp.gate",
    "mlp.shared_experts.gate_up_proj": (
        "mlp.shared_experts.gate_proj",
        "mlp.shared_experts.up_proj",
    ),
    "mlp.moe_gate_up_proj": ("mlp.experts.*.gate_proj", "mlp.experts.*.up_proj"),
    "mlp.moe_down_proj": ("mlp.experts.*.down_proj",),
}
"""The same, with experts in some layers. The router has a bias beside its weight."""


class Layout(Struct, frozen=True, kw_only=True):
    """One way to store a family's weights."""

    modules: Mapping[str, str | tuple[str, ...]] = {}
    """By our module; several names are stacked in that order. A * stands for the number of an
    expert, of whose matrices a stack is then made."""
    layers: str = "model.layers"
    prefixes: tuple[str, ...] = ("",)
    """What may stand before every name; the first whose embedding table exists is taken."""
    norm_offset: float = 0.0
    """What is added to the weights of norms."""
    transposed: bool = False
    """Matrices in the layers lie with the input axis first."""
    interleaved_heads: bool = False
    """`qkv_proj` lies as q, k, v of the first head, then of the second, ..."""
    latent_heads: bool = False
    """`kv_b_proj` has for each head the rows that make its key of a latent, then those that make
    its value: the columns of `w_uk` and the rows of `w_uv`."""
    ignored: str | None = None
    """Pattern of whole names that hold no weight: tables and masks of older programs."""

    def stored_names(self, name: str) -> tuple[str, ...]:
        """Names, without a prefix, of the tensors that make the parameter of this name."""
        module, _, leaf = name.rpartition(".")
        place = ""
        if matched := _LAYER.fullmatch(module):
            place, module = f"{self.layers}.{matched[1]}.", matched[2]
        named = self.modules.get(module, module)
        modules = (named,) if isinstance(named, str) else named
        return tuple(f"{place}{stored}.{leaf}" for stored in modules)


def straight(layout: Layout) -> Layout:
    """The same names for matrices that lie as our own do, as `weights.sources.gguf` gives them."""
    return msgspec.structs.replace(
        layout, transposed=False, interleaved_heads=False, latent_heads=False
    )


LLAMA = Layout(modules=STACKED)
"""Hugging Face's Llama and all that follow it."""

MLC = Layout()
"""MLC's Llama: our own names."""
