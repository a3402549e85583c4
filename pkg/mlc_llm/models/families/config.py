"""The fields that nearly every config.json has, and what all decoders have in common.

A family's configuration extends `DecoderConfig` where its format has other defaults or more fields;
`decoder` makes the architecture and refuses what the kernels would silently compute wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from mlc_llm.errors import BadModel
from mlc_llm.models.architecture import Activation, Architecture, Experts
from mlc_llm.models.families.rotary import Positions, Positive, RopeParameters, Share, read_rotary
from mlc_llm.quantization.scheme import GROUP_SIZE

Size = Annotated[int, Meta(ge=1, le=1 << 20)]
Heads = Annotated[int, Meta(ge=1, le=1 << 12)]
HeadDim = Annotated[int, Meta(ge=2, le=1024, multiple_of=2)]
Vocabulary = Annotated[int, Meta(ge=1, le=1 << 22)]
Epsilon = Annotated[float, Meta(ge=0, le=1)]

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
"""By `hidden_act`."""


class DecoderConfig(Struct, frozen=True, kw_only=True):
    """config.json with the names and defaults of model_type llama."""

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Heads
    num_attention_heads: Heads
    num_key_value_heads: Heads | None = None
    head_dim: HeadDim | None = None
    vocab_size: Vocabulary
    max_position_embeddings: Positions = 2048
    rms_norm_eps: Epsilon = 1e-6
    rope_theta: Positive = 10000.0
    rope_scaling: RopeParameters | None = None
    rope_parameters: RopeParameters | None = None
    partial_rotary_factor: Share = 1.0
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"

    @property
    def rope(self) -> RopeParameters | None:
        """Whichever of the two spellings the file has."""
        return self.rope_parameters or self.rope_scaling


def decoder(config: DecoderConfig, model_type: str, path: Path, **different: Any) -> Architecture:
    """The architecture of `config`, changed by the fields of `Architecture` that differ."""
    heads = config.num_attention_heads
    if config.head_dim is None and config.hidden_size % (2 * heads):
        raise BadModel(f"{path}: hidden_size is not an even multiple of num_attention_heads")
    head_dim = config.head_dim or config.hidden_size // heads
    rope = config.rope
    share = (rope and rope.partial_rotary_factor) or config.partial_rotary_factor
    rope_dim = int(head_dim * share)
    if rope_dim % 2 or rope_dim < 2:
        raise BadModel(
            f"{path}: partial_rotary_factor gives {rope_dim} columns, not an even number"
        )
    scaling, positions = read_rotary(rope, config.max_position_embeddings, rope_dim, path)
    if config.hidden_act not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise BadModel(f"{path}: hidden_act {config.hidden_act!r} is not supported; use {known}")
    architecture = Architecture(
        model_type=model_type,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=config.num_key_value_heads or heads,
        head_dim=head_dim,
        vocab_size=config.vocab_size,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=rope.rope_theta if rope and rope.rope_theta else config.rope_theta,
        rope_scaling=scaling,
        rotary_dim=None if rope_dim == head_dim else rope_dim,
        tie_word_embeddings=config.tie_word_embeddings,
        context_window_size=positions,
        activation=ACTIVATIONS[config.hidden_act],
    )
    _refuse_odd_sizes(architecture, path)
    return msgspec.structs.replace(architecture, **different)


def check_experts(experts: Experts, path: Path) -> None:
    """Raise `BadModel` for numbers of experts that contradict each other."""
    count, groups = experts.count, experts.groups
    if experts.per_token > count * experts.groups_per_token // groups:
        raise BadModel(f"{path}: num_experts_per_tok is more than the experts that may be chosen")
    if count % groups or experts.groups_per_token > groups:
        raise BadModel(f"{path}: {count} experts do not form {groups} groups of equal size")


def refuse(config: Struct, path: Path, **wanted: Any) -> None:
    """Raise `BadModel` for the first field that has another value than the one that is served."""
    for key, value in wanted.items():
        if (found := getattr(config, key)) != value:
            raise BadModel(f"{path}: {key} {_json(found)} is not supported; only {_json(value)} is")


def sliding(
    window: int | None, types: Sequence[str] | None, otherwise: Sequence[bool], path: Path
) -> dict[str, Any]:
    """The fields of `Architecture` about windows: layers slide by their type, where the file has
    `layer_types`, else as `otherwise` says."""
    if window is None:
        return {}
    if types is not None and len(types) != len(otherwise):
        raise BadModel(
            f"{path}: layer_types must have an entry for each of {len(otherwise)} layers"
        )
    flags = otherwise if types is None else [kind == "sliding_attention" for kind in types]
    layers = tuple(i for i, slides in enumerate(flags) if slides)
    return {"sliding_window": window, "sliding_layers": layers}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _refuse_odd_sizes(arch: Architecture, path: Path) -> None:
    if arch.num_attention_heads % arch.num_key_value_heads:
        raise BadModel(f"{path}: num_attention_heads must be a multiple of num_key_value_heads")
    if arch.hidden_size % GROUP_SIZE:
        raise BadModel(f"{path}: hidden_size must be a multiple of {GROUP_SIZE}")
    if arch.num_attention_heads * arch.head_dim % GROUP_SIZE:
        raise BadModel(
            f"{path}: num_attention_heads times head_dim must be a multiple of {GROUP_SIZE}"
        )
