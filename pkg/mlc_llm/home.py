"""Where this user's models and compiled libraries live. Reads the environment, touches no file."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def home() -> Path:
    """$MLC_LLM_HOME, else the platform's cache folder for `mlc_llm`. It may not exist yet."""
    if chosen := os.environ.get("MLC_LLM_HOME"):
        return Path(chosen).expanduser()
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "mlc_llm"
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "mlc_llm"
    return Path.home() / ".cache" / "mlc_llm"


def model_weights() -> Path:
    """Models kept by name; those of the hub under hf/<user>/<repo>."""
    return home() / "model_weights"


def model_lib() -> Path:
    """Compiled libraries."""
    return home() / "model_lib"


def packed_weights() -> Path:
    """Weights quantized while they were loaded (`weights.cache`)."""
    return home() / "packed_weights"


def unpacked_models() -> Path:
    """Configurations and tokenizers of GGUF files (`models.gguf.unpack`)."""
    return home() / "gguf"


def readonly_weight_caches() -> tuple[Path, ...]:
    """Folders of $MLC_LLM_READONLY_WEIGHT_CACHE, searched before `model_weights()`."""
    listed = os.environ.get("MLC_LLM_READONLY_WEIGHT_CACHE", "")
    return tuple(Path(part) for part in listed.split(os.pathsep) if part)
