"""Hugging Face configuration files: the fields that every model has, whatever its family."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from mlc_llm.errors import BadModel
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.registry import family
from mlc_llm.protocol.ranges import MAX_INTEGER, recommended

TokenIds = int | list[int] | None


class GenerationConfig(Struct, frozen=True, kw_only=True):
    """The fields of generation_config.json that are used; None is unset."""

    bos_token_id: TokenIds = None
    eos_token_id: TokenIds = None
    temperature: Annotated[float, recommended("temperature")] | None = None
    top_p: Annotated[float, recommended("top_p")] | None = None
    top_k: int | None = None
    min_p: Annotated[float, recommended("min_p")] | None = None
    repetition_penalty: Annotated[float, recommended("repetition_penalty")] | None = None
    max_new_tokens: Annotated[int, Meta(ge=1, le=MAX_INTEGER)] | None = None


class TokenConfig(Struct, frozen=True, kw_only=True):
    """The fields that every config.json has, whatever the family."""

    model_type: str
    bos_token_id: TokenIds = None
    eos_token_id: TokenIds = None


def architecture(model_type: str, values: dict[str, Any], path: Path) -> Architecture:
    """The architecture that `values`, read from `path`, describe; raises `BadModel`."""
    try:
        found = family(model_type)
    except BadModel as error:
        raise BadModel(f"{path}: {error.message}") from None
    return found.architecture(values, path)
