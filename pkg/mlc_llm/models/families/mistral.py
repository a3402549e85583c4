"""Mistral: a Llama all of whose layers may attend to a window of the latest positions only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlc_llm.models.architecture import Architecture
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import DecoderConfig, Heads, decoder, sliding
from mlc_llm.models.families.rotary import Positions


class MistralConfig(DecoderConfig, frozen=True, kw_only=True):
    """From release 0.2 on there is no window."""

    num_key_value_heads: Heads | None = 8
    max_position_embeddings: Positions = 4096 * 32
    sliding_window: Positions | None = None


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """A window is one of all layers."""
    config = convert(values, MistralConfig, path)
    everywhere = [True] * config.num_hidden_layers
    return decoder(
        config, "mistral", path, **sliding(config.sliding_window, None, everywhere, path)
    )


FAMILY = Family(architecture)
