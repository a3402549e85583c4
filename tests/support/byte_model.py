"""A folder of a model whose vocabulary is bytes: enough to render, tokenize and be asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlc_llm.protocol.messages import PROTOCOL_VERSION, Ready
from support import toy_tokenizers

VOCAB = 3 + 256 + 2
READY = Ready(PROTOCOL_VERSION, 1, VOCAB, 4, 4096, 32, 128)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": VOCAB,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"


def write_folder(folder: Path, **tokenizer_config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    toy_tokenizers.write(folder, toy_tokenizers.byte_fallback([" Hello", "Hello"]))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    written = {"bos_token": "<s>", "eos_token": "</s>", **tokenizer_config}
    (folder / "tokenizer_config.json").write_text(json.dumps(written))
    return folder
