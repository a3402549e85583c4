"""Qwen 2 and 2.5, dense: a Llama with biases of queries, keys and values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from mlc_llm.models.architecture import Architecture
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import DecoderConfig, decoder, sliding
from mlc_llm.models.families.rotary import Positions


class SlidingConfig(DecoderConfig, frozen=True, kw_only=True):
    """`sliding_window` counts only with `use_sliding_window`; then the later layers slide."""

    use_sliding_window: bool = False
    sliding_window: Positions | None = None
    max_window_layers: Annotated[int, Meta(ge=0)] = 28
    layer_types: list[str] | None = None


class Qwen2Config(SlidingConfig, frozen=True, kw_only=True):
    """The same fields with this format's default."""

    max_position_embeddings: Positions = 32768


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """Only these three projections have a bias, whatever the file says."""
    config = convert(values, Qwen2Config, path)
    return decoder(config, "qwen2", path, qkv_bias=True, **sliding_layers(config, path))


def sliding_layers(config: SlidingConfig, path: Path) -> dict[str, Any]:
    """The fields of `Architecture` about windows."""
    if not config.use_sliding_window:
        return {}
    later = [i >= config.max_window_layers for i in range(config.num_hidden_layers)]
    return sliding(config.sliding_window, config.layer_types, later, path)


FAMILY = Family(architecture)
