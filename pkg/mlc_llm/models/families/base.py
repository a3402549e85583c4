"""What a family module consists of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from mlc_llm.models.architecture import Architecture
from mlc_llm.models.layout import LLAMA, MLC, Layout


class Family(Struct, frozen=True):
    """A model family: how its configuration and its weights are read."""

    architecture: Callable[[dict[str, Any], Path], Architecture]
    """From the fields of config.json and its path; raises `BadModel` for what it cannot serve."""
    huggingface: Layout = LLAMA
    mlc: Layout = MLC
