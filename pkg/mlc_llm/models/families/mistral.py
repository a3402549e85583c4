"""Mistral: a Llama all of whose layers may attend to a window of the latest positions only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from mlc_llm.models.architecture import Architecture
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import DecoderConfig, Heads, decoder, sliding
from mlc_llm.models.families.rotary import Positions

Window = Annotated[int, Meta(ge=-1, le=1 << 24)]


class MistralConfig(DecoderConfig, frozen=True, kw_only=True):
    """Files of MLC say -1 for no window."""

    num_key_value_heads: Heads | None = 8
    max_position_embeddings: Positions = 4096 * 32
    sliding_window: Window | None = None
    sliding_window_size: Window | None = None


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """From release 0.2 on there is no window. Files of MLC call it `sliding_window_size`."""
    config = convert(values, MistralConfig, path)
    window = config.sliding_window_size or config.sliding_window
    positive = window if window is not None and window > 0 else None
    everywhere = [True] * config.num_hidden_layers
    return decoder(config, "mistral", path, **sliding(positive, None, everywhere, path))


FAMILY = Family(architecture)
