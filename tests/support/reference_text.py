"""What a model really says: greedy text of a Hugging Face folder by the float64 oracle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from mlc_llm.models.folder import open_folder
from support.oracle import Oracle


def open_oracle(folder: Path) -> Oracle:
    """The oracle on the weights of an unsharded Hugging Face folder."""
    arch = open_folder(folder).architecture
    stored = load_file(folder / "model.safetensors")
    weights = dict(stored)
    for layer in range(arch.num_hidden_layers):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        weights[f"{attention}.qkv_proj.weight"] = np.concatenate(
            [weights.pop(f"{attention}.{part}_proj.weight") for part in "qkv"]
        )
        weights[f"{mlp}.gate_up_proj.weight"] = np.concatenate(
            [weights.pop(f"{mlp}.{part}_proj.weight") for part in ("gate", "up")]
        )
    return Oracle(arch, weights)


def greedy_text(folder: Path, prompt: str, num_tokens: int, *, bos: bool) -> str:
    """The oracle's greedy continuation of `prompt`; stops at an end token."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    if bos:
        ids = [json.loads((folder / "config.json").read_text())["bos_token_id"], *ids]
    ends = set(open_folder(folder).eos_token_ids)
    tokens = open_oracle(folder).greedy(ids, num_tokens)
    kept = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    whole = tokenizer.decode(ids + tokens[:kept], skip_special_tokens=True)
    return whole[len(tokenizer.decode(ids, skip_special_tokens=True)) :]
