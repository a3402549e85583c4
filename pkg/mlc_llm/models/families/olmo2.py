"""OLMo 2: norms stand after attention and MLP, and on whole rows of queries and keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlc_llm.models.architecture import Architecture
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import DecoderConfig, decoder, refuse


class Olmo2Config(DecoderConfig, frozen=True, kw_only=True):
    """The defaults of this format."""

    rms_norm_eps: float = 1e-5
    attention_bias: bool = False


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """What a layer adds is normalised, what it reads is not."""
    config = convert(values, Olmo2Config, path)
    refuse(config, path, attention_bias=False)
    return decoder(config, "olmo2", path, norms="after", qk_norm="row")


FAMILY = Family(architecture)
