"""How many tokens a second the hardware allows: a model's shape, a read ceiling, an int8 peak.

One yardstick for every engine: 4.5 bits for each weight (4-bit values and a 16-bit scale for 32 of
them) and a 16-bit KV cache. An engine that stores less than that may pass 100 %.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shapes import Shape

WEIGHT_BYTES = 4.5 / 8
KV_BYTES = 2


@dataclass(frozen=True)
class Ceilings:
    """What this machine could do at one moment; no int8 peak where no kernel measures it."""

    read_gb_s: float
    int8_gmac_s: float | None


@dataclass(frozen=True)
class ModelShape:
    """Parameters that multiply a token, and what a token leaves in the KV cache."""

    layer_weights: int
    head_weights: int
    kv_token_bytes: int

    def decode_ceiling(self, shape: Shape, ceilings: Ceilings) -> float:
        """Tokens per second of all sequences when a step only reads, or only multiplies."""
        weights = self.layer_weights + self.head_weights
        context = shape.prompt + shape.tokens / 2
        read = weights * WEIGHT_BYTES + shape.sequences * context * self.kv_token_bytes
        seconds = read / (ceilings.read_gb_s * 1e9)
        if ceilings.int8_gmac_s is not None:
            macs = shape.sequences * weights
            seconds = max(seconds, macs / (ceilings.int8_gmac_s * 1e9))
        return shape.sequences / seconds

    def prefill_ceiling(self, shape: Shape, ceilings: Ceilings) -> float | None:
        """Prompt tokens per second of the matrix products alone; attention is not counted."""
        if ceilings.int8_gmac_s is None:
            return None
        macs = shape.prompt * self.layer_weights + self.head_weights
        return shape.prompt * ceilings.int8_gmac_s * 1e9 / macs


def model_shape(folder: Path) -> ModelShape:
    """From the config.json of a Hugging Face folder of a dense Llama-like model."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    attention = 2 * hidden * head_dim * (heads + kv_heads)
    mlp = 3 * hidden * config["intermediate_size"]
    layers = config["num_hidden_layers"]
    return ModelShape(
        layer_weights=layers * (attention + mlp),
        head_weights=hidden * config["vocab_size"],
        kv_token_bytes=layers * 2 * kv_heads * head_dim * KV_BYTES,
    )
