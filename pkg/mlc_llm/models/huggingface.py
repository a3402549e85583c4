"""Hugging Face configuration files: the fields that matter, and one function per model family.

A family function turns the fields of config.json into an `Architecture` or raises `BadModel`; it
refuses what the decoder would silently compute wrongly. Adding a family is one row of `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from mlc_llm.errors import BadModel
from mlc_llm.models.architecture import Architecture, RopeScaling
from mlc_llm.models.document import convert
from mlc_llm.quantization.scheme import GROUP_SIZE

Size = Annotated[int, Meta(ge=1, le=1 << 20)]
Heads = Annotated[int, Meta(ge=1, le=1 << 12)]
Vocabulary = Annotated[int, Meta(ge=1, le=1 << 22)]
Positions = Annotated[int, Meta(ge=1, le=1 << 24)]
Positive = Annotated[float, Meta(gt=0, le=1e12)]
TokenIds = int | list[int] | None


class RopeParameters(Struct, frozen=True):
    """`rope_scaling` of config.json, or the newer `rope_parameters` that also holds the base."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: Positive | None = None
    factor: Positive | None = None
    low_freq_factor: Positive | None = None
    high_freq_factor: Positive | None = None
    original_max_position_embeddings: Positions | None = None


class LlamaConfig(Struct, frozen=True, kw_only=True):
    """config.json of model_type llama, with the defaults of that format."""

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Heads
    num_attention_heads: Heads
    num_key_value_heads: Heads | None = None
    head_dim: Annotated[int, Meta(ge=2, le=1024, multiple_of=2)] | None = None
    vocab_size: Vocabulary
    max_position_embeddings: Positions = 2048
    rms_norm_eps: Annotated[float, Meta(ge=0, le=1)] = 1e-6
    rope_theta: Positive = 10000.0
    rope_scaling: RopeParameters | None = None
    rope_parameters: RopeParameters | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_act: str = "silu"


class GenerationConfig(Struct, frozen=True, kw_only=True):
    """The fields of generation_config.json that are used; None is unset."""

    bos_token_id: TokenIds = None
    eos_token_id: TokenIds = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: int | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    max_new_tokens: Annotated[int, Meta(ge=1)] | None = None


class TokenConfig(Struct, frozen=True, kw_only=True):
    """The fields that every config.json has, whatever the family."""

    model_type: str
    bos_token_id: TokenIds = None
    eos_token_id: TokenIds = None


def llama(values: dict[str, Any], path: Path) -> Architecture:
    """Llama 1 to 3 and everything saved as model_type llama."""
    config = convert(values, LlamaConfig, path)
    heads = config.num_attention_heads
    if config.head_dim is None and config.hidden_size % (2 * heads):
        raise BadModel(f"{path}: hidden_size is not an even multiple of num_attention_heads")
    rope = config.rope_parameters or config.rope_scaling
    architecture = Architecture(
        model_type="llama",
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=config.num_key_value_heads or heads,
        head_dim=config.head_dim or config.hidden_size // heads,
        vocab_size=config.vocab_size,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=rope.rope_theta if rope and rope.rope_theta else config.rope_theta,
        rope_scaling=_rope_scaling(rope, path),
        tie_word_embeddings=config.tie_word_embeddings,
        context_window_size=config.max_position_embeddings,
    )
    _refuse_unsupported(config, architecture, path)
    return architecture


FAMILIES: dict[str, Callable[[dict[str, Any], Path], Architecture]] = {
    "llama": llama,
}
"""By model_type, as config.json and mlc-chat-config.json both name it."""


def architecture(model_type: str, values: dict[str, Any], path: Path) -> Architecture:
    """The architecture that `values`, read from `path`, describe."""
    if (family := FAMILIES.get(model_type)) is None:
        supported = ", ".join(FAMILIES)
        raise BadModel(
            f"{path}: model_type {model_type!r} is not supported; use one of {supported}"
        )
    return family(values, path)


def _rope_scaling(rope: RopeParameters | None, path: Path) -> RopeScaling | None:
    kind = (rope.rope_type or rope.type or "default") if rope else "default"
    if rope is None or kind == "default":
        return None
    if kind != "llama3":
        raise BadModel(f"{path}: rope_type {kind!r} is not supported; only llama3 scaling is")
    if (
        rope.factor is None
        or rope.low_freq_factor is None
        or rope.high_freq_factor is None
        or rope.original_max_position_embeddings is None
    ):
        raise BadModel(
            f"{path}: llama3 rope scaling needs factor, low_freq_factor, high_freq_factor "
            "and original_max_position_embeddings"
        )
    if rope.high_freq_factor <= rope.low_freq_factor:
        raise BadModel(f"{path}: high_freq_factor must be above low_freq_factor")
    return RopeScaling(
        factor=rope.factor,
        low_freq_factor=rope.low_freq_factor,
        high_freq_factor=rope.high_freq_factor,
        original_max_position_embeddings=rope.original_max_position_embeddings,
    )


def _refuse_unsupported(config: LlamaConfig, arch: Architecture, path: Path) -> None:
    if config.attention_bias or config.mlp_bias:
        key = "attention_bias" if config.attention_bias else "mlp_bias"
        raise BadModel(f"{path}: {key} is true; layers with a bias are not supported")
    if config.hidden_act != "silu":
        raise BadModel(f"{path}: hidden_act {config.hidden_act!r} is not supported; only silu is")
    if arch.num_attention_heads % arch.num_key_value_heads:
        raise BadModel(f"{path}: num_attention_heads must be a multiple of num_key_value_heads")
    if arch.hidden_size % GROUP_SIZE:
        raise BadModel(f"{path}: hidden_size must be a multiple of {GROUP_SIZE}")
    if arch.num_attention_heads * arch.head_dim % GROUP_SIZE:
        raise BadModel(
            f"{path}: num_attention_heads times head_dim must be a multiple of {GROUP_SIZE}"
        )
