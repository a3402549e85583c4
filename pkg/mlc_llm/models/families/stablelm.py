"""StableLM 1.6B to 12B: layer norms with a bias, a quarter of each head turned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mlc_llm.models.architecture import Architecture
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import DecoderConfig, Epsilon, decoder, refuse
from mlc_llm.models.families.rotary import Positions, Share


class StableLmConfig(DecoderConfig, frozen=True, kw_only=True):
    """The defaults of this format."""

    max_position_embeddings: Positions = 4096
    layer_norm_eps: Epsilon = 1e-5
    partial_rotary_factor: Share = 0.25
    use_qkv_bias: bool = False
    qk_layernorm: bool = False
    use_parallel_residual: bool = False


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """A parallel layer has one norm, which attention and MLP share."""
    config = convert(values, StableLmConfig, path)
    refuse(config, path, qk_layernorm=False)
    config = msgspec.structs.replace(config, rms_norm_eps=config.layer_norm_eps)
    parallel = config.use_parallel_residual
    return decoder(
        config,
        "stablelm",
        path,
        norm="layer",
        norm_bias=True,
        qkv_bias=config.use_qkv_bias,
        parallel=parallel,
        shared_norm=parallel,
    )


FAMILY = Family(architecture)
