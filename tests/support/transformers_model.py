"""A checkpoint as the transformers library writes and computes it. Needs the extra `parity`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from support.checkpoints import Recorded, Tensor, write_folder
from support.folders import write_json

NUM_TOKENS = 300
POSITIONS = (0, 1, 15, 16, 40, 63, 127, 128, 200, 299)


def record(config: dict[str, Any], scratch: Path) -> Recorded:
    """The model of `config` with weights that follow from their names, and its logits."""
    tensors, _ = describe(config, scratch / "described")
    folder = scratch / "model"
    write_folder(folder, config, tensors)
    vocab_size = config.get("text_config", config)["vocab_size"]
    ids = np.random.default_rng(7).integers(3, vocab_size - 1, NUM_TOKENS).astype(np.int32)
    found = logits(folder, ids)
    positions = np.array(POSITIONS, np.int32)
    return Recorded(config, tensors, ids, positions, found[positions])


def record_encoder(config: dict[str, Any], scratch: Path) -> Recorded:
    """The same of an encoder. In place of logits: the hidden states of the first and of the last
    token of the text that ends at a position, one after the other."""
    tensors, _ = describe(config, scratch / "described", AutoModel)
    folder = scratch / "model"
    write_folder(folder, config, tensors)
    ids = np.random.default_rng(7).integers(3, config["vocab_size"] - 1, NUM_TOKENS)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    found = []
    for position in POSITIONS:
        with torch.no_grad():
            out = model.eval()(torch.from_numpy(ids[None, : position + 1]))
        found.append(out.last_hidden_state[0, [0, -1]].reshape(-1).numpy())
    positions = np.array(POSITIONS, np.int32)
    return Recorded(config, tensors, ids.astype(np.int32), positions, np.stack(found))


def describe(
    config: dict[str, Any], scratch: Path, kind: Any = AutoModelForCausalLM
) -> tuple[list[Tensor], dict[str, Any]]:
    """The tensors of a model as the library saves it, and the config.json that it writes."""
    scratch.mkdir(parents=True)
    write_json(scratch / "config.json", config)
    torch.manual_seed(0)
    model = kind.from_config(AutoConfig.from_pretrained(scratch))
    model.save_pretrained(scratch / "saved")
    stored = load_file(scratch / "saved" / "model.safetensors")
    tensors = [
        Tensor(name, value.shape, float(value.mean()) if value.ndim == 1 else 0.0)
        for name, value in stored.items()
    ]
    written = json.loads((scratch / "saved" / "config.json").read_text())
    return tensors, written


def logits(folder: Path, ids: np.ndarray[Any, np.dtype[np.int32]]) -> Any:
    """float32[tokens, vocabulary] after every token; eager attention, as the plainest."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"], report
    assert not report["unexpected_keys"], report
    with torch.no_grad():
        out = model.eval()(torch.from_numpy(ids.astype(np.int64))[None], use_cache=False)
    return out.logits[0].float().numpy()
