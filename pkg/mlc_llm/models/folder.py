"""What a model folder says about itself, whichever program wrote it. Reads JSON, never a weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from mlc_llm.models.architecture import Architecture


class GenerationDefaults(Struct, frozen=True, kw_only=True):
    """Sampling the model's authors recommend; used for fields a request leaves unset."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = None


class ModelFolder(Struct, frozen=True, kw_only=True):
    """A model on disk, its configuration read and checked."""

    path: Path
    format: Literal["huggingface", "mlc"]
    architecture: Architecture
    quantization: str | None
    """The scheme the weights are stored in; None for a Hugging Face folder (quantized at load)."""
    defaults: GenerationDefaults
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    chat_template: str | None
    """Jinja source from chat_template.jinja or tokenizer_config.json."""
    conv_template: dict[str, Any] | None
    """MLC's conversation template, from mlc-chat-config.json."""
    tokenizer_config: dict[str, Any]
    """tokenizer_config.json, or {} when there is none."""
    context_window_size: int
    """mlc-chat-config.json may shrink the architecture's."""
    prefill_chunk_size: int | None = None
    sliding_window_size: int | None = None
