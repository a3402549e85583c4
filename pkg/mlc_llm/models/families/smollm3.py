"""SmolLM3: a Llama some of whose layers do not rotate queries and keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from mlc_llm.errors import BadModel
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import DecoderConfig, decoder, refuse
from mlc_llm.models.families.rotary import Positions, Positive


class SmolLm3Config(DecoderConfig, frozen=True, kw_only=True):
    """`no_rope_layers` has a 1 for every layer that rotates."""

    max_position_embeddings: Positions = 32768
    rope_theta: Positive = 2e6
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    mlp_bias: bool = False
    use_sliding_window: bool = False
    no_rope_layers: list[int] | None = None
    no_rope_layer_interval: Annotated[int, Meta(ge=1)] = 4


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """Without a list, the last layer of each interval does not rotate."""
    config = convert(values, SmolLm3Config, path)
    refuse(config, path, attention_bias=False, mlp_bias=False, use_sliding_window=False)
    count, step = config.num_hidden_layers, config.no_rope_layer_interval
    turns = config.no_rope_layers or [int((i + 1) % step != 0) for i in range(count)]
    if len(turns) < count:
        raise BadModel(f"{path}: no_rope_layers must have an entry for each of {count} layers")
    still = tuple(i for i in range(count) if not turns[i])
    return decoder(config, "smollm3", path, unrotated_layers=still)


FAMILY = Family(architecture)
