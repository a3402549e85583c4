"""Model families by `model_type`, as config.json and mlc-chat-config.json both name it.

Knows names only: a family's module is imported when a model of that type is opened.
"""

from __future__ import annotations

from importlib import import_module

from mlc_llm.errors import BadModel
from mlc_llm.models.families.base import Family

FAMILIES = {
    "bert": "bert",
    "deepseek_v2": "deepseek_v2",
    "deepseek_v3": "deepseek_v3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    "llama": "llama",
    "mistral": "mistral",
    "mixtral": "mixtral",
    "olmo2": "olmo2",
    "olmoe": "olmoe",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2_moe",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3_moe",
    "smollm3": "smollm3",
    "stablelm": "stablelm",
}
"""The module in `models.families` whose `FAMILY` reads models of a type."""


def family(model_type: str) -> Family:
    """The family of a `model_type`; raises `BadModel` that lists the known ones."""
    try:
        name = FAMILIES[model_type]
    except KeyError:
        supported = ", ".join(FAMILIES)
        raise BadModel(
            f"model_type {model_type!r} is not supported; use one of {supported}"
        ) from None
    found: Family = import_module(f"mlc_llm.models.families.{name}").FAMILY
    return found
