"""mlc-chat-config.json: the fields that matter, from the oldest files to today's.

Every field but model_type and model_config may be absent or null: files written by older releases
lack many. 0 and -1 stand for "not set" in sizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from mlc_llm.models import huggingface
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.document import convert
from mlc_llm.models.huggingface import TokenIds
from mlc_llm.protocol.ranges import recommended

Pooling = Literal["last", "mean", "cls"]
"""Which hidden states become an embedding: the last token's, the mean of all, the first token's."""

Window = Annotated[int, Meta(ge=-1, le=1 << 24)]


class ModelConfig(Struct, frozen=True, kw_only=True):
    """The fields of `model_config` that config.json calls otherwise or that may be 0 here."""

    position_embedding_base: Annotated[float, Meta(ge=0, le=1e12)] | None = None
    context_window_size: Window | None = None
    max_position_embeddings: Window | None = None
    num_key_value_heads: Annotated[int, Meta(ge=0, le=1 << 12)] | None = None
    head_dim: Annotated[int, Meta(ge=0, le=1024)] | None = None
    sliding_window: Window | None = None
    sliding_window_size: Window | None = None


class EmbeddingMetadata(Struct, frozen=True, kw_only=True):
    """`embedding_metadata` of models whose `model_task` is "embedding"."""

    pooling_strategy: Pooling | None = None


class ChatConfig(Struct, frozen=True, kw_only=True):
    """The whole file. Unknown fields are ignored."""

    model_type: str
    quantization: str
    model_config: dict[str, Any]
    vocab_size: Annotated[int, Meta(ge=1, le=1 << 22)] | None = None
    context_window_size: Window | None = None
    sliding_window_size: Window | None = None
    prefill_chunk_size: Window | None = None
    temperature: Annotated[float, recommended("temperature")] | None = None
    presence_penalty: Annotated[float, recommended("presence_penalty")] | None = None
    frequency_penalty: Annotated[float, recommended("frequency_penalty")] | None = None
    repetition_penalty: Annotated[float, recommended("repetition_penalty")] | None = None
    top_p: Annotated[float, recommended("top_p")] | None = None
    conv_template: dict[str, Any] | str | None = None
    bos_token_id: TokenIds = None
    eos_token_id: TokenIds = None
    embedding_metadata: EmbeddingMetadata | None = None


def architecture(config: ChatConfig, path: Path) -> Architecture:
    """The architecture, parsed by the same function that parses the family's config.json."""
    values = _renamed({"vocab_size": config.vocab_size, **config.model_config}, path)
    if isinstance(text := values.get("text_config"), dict):
        values["text_config"] = _renamed(text, path)
    return huggingface.architecture(config.model_type, values, path)


def _renamed(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The fields by the names of config.json, without those that are not set."""
    own = convert(values, ModelConfig, path)
    renamed = {
        "rope_theta": own.position_embedding_base or values.get("rope_theta"),
        "max_position_embeddings": positive(own.context_window_size)
        or positive(own.max_position_embeddings),
        "num_key_value_heads": own.num_key_value_heads or None,
        "head_dim": own.head_dim or None,
        "sliding_window": positive(own.sliding_window) or positive(own.sliding_window_size),
    }
    return {key: value for key, value in {**values, **renamed}.items() if value is not None}


def positive(value: int | None) -> int | None:
    """The value, or None when it is one of this format's ways to say "not set"."""
    return value if value is not None and value > 0 else None
