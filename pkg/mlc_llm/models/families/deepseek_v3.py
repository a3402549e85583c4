"""DeepSeek-V3 and R1: a DeepSeek-V2 whose experts are chosen by corrected sigmoids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mlc_llm.models.architecture import Architecture
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import refuse
from mlc_llm.models.families.deepseek_v2 import HUGGINGFACE, LatentConfig, latent_decoder


class DeepseekV3Config(LatentConfig, frozen=True, kw_only=True):
    """Published files name the way of choosing; it is the only one."""

    scoring_func: str | None = "sigmoid"
    topk_method: str | None = "noaux_tc"
    norm_topk_prob: bool = True


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """Groups of experts count as much as their best two, correction included."""
    config = convert(values, DeepseekV3Config, path)
    refuse(config, path, scoring_func="sigmoid", topk_method="noaux_tc")
    return latent_decoder(
        config,
        "deepseek_v3",
        path,
        grouped=True,
        scores="sigmoid",
        correction=True,
        group_score="best_two",
        normalise=config.norm_topk_prob,
    )


FAMILY = Family(
    architecture, msgspec.structs.replace(HUGGINGFACE, ignored=r"model\.layers\.61\..+")
)
"""What follows the last layer predicts more tokens at once, which is not computed here."""
