"""Write a Hugging Face folder with the shape of a real model and random weights.

    python tests/bench/random_model.py OUT {llama-160m,llama-1b,qwen3-0.6b,gemma-3-1b}

Speed does not depend on the values of weights, and a model of the wrong size says nothing about the
right one. The tokenizer is a byte-level BPE with an entry for every id, so that every engine can
load the folder and every id decodes to text. Needs numpy and tokenizers.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ("<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
PAD, BOS, EOS = SPECIAL[1], SPECIAL[1], SPECIAL[3]
TRAINED_VOCABULARY = 16000
TRAINING_FILES = 140
CONTEXT = 8192
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """The numbers of one model."""

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inter: int
    vocab: int
    tied: bool
    theta: float
    eps: float


SIZES = {
    "llama-160m": Size("llama", 12, 768, 12, 12, 64, 2048, 32000, False, 1e4, 1e-6),
    "llama-1b": Size("llama", 16, 2048, 32, 8, 64, 8192, 128256, True, 5e5, 1e-5),
    "gemma-3-1b": Size("gemma3_text", 26, 1152, 4, 1, 256, 6912, 262144, True, 1e6, 1e-6),
    "qwen3-0.6b": Size("qwen3", 28, 1024, 16, 8, 128, 3072, 151936, True, 1e6, 1e-6),
}
"""The shapes of JackFram/llama-160m, Llama-3.2-1B, Gemma-3-1B and Qwen3-0.6B."""

GEMMA_3 = {
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 32768,
    "query_pre_attn_scalar": 256,
    "rope_local_base_freq": 10000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
}
"""What its config.json has beside the sizes."""


def tensor_shapes(size: Size) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor; vectors are norms."""
    yield "model.embed_tokens.weight", (size.vocab, size.hidden)
    for layer in range(size.layers):
        for name, shape in _layer(size):
            yield f"model.layers.{layer}.{name}.weight", shape
    yield "model.norm.weight", (size.hidden,)
    if not size.tied:
        yield "lm_head.weight", (size.vocab, size.hidden)


def _layer(size: Size) -> Iterator[tuple[str, tuple[int, ...]]]:
    queries, keys = size.heads * size.head_dim, size.kv_heads * size.head_dim
    yield "self_attn.q_proj", (queries, size.hidden)
    yield "self_attn.k_proj", (keys, size.hidden)
    yield "self_attn.v_proj", (keys, size.hidden)
    yield "self_attn.o_proj", (size.hidden, queries)
    if size.family in ("qwen3", "gemma3_text"):
        yield "self_attn.q_norm", (size.head_dim,)
        yield "self_attn.k_norm", (size.head_dim,)
    yield "mlp.gate_proj", (size.inter, size.hidden)
    yield "mlp.up_proj", (size.inter, size.hidden)
    yield "mlp.down_proj", (size.hidden, size.inter)
    yield "input_layernorm", (size.hidden,)
    yield "post_attention_layernorm", (size.hidden,)
    if size.family == "gemma3_text":
        yield "pre_feedforward_layernorm", (size.hidden,)
        yield "post_feedforward_layernorm", (size.hidden,)


def write_weights(path: Path, size: Size) -> None:
    """A safetensors file in bfloat16, one tensor in memory at a time."""
    random = np.random.default_rng(0)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensor_shapes(size):
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensor_shapes(size):
            values = random.standard_normal(shape, dtype=np.float32)
            if len(shape) == 1:
                values = 1 + 0.02 * values
            else:
                table = "embed" in name or "lm_head" in name
                values *= np.float32(0.02 if table else 0.6 / math.sqrt(shape[-1]))
            file.write(_bfloat16(values).tobytes())


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def trained_tokenizer() -> dict[str, Any]:
    """A byte-level BPE of the sources of Python's standard library."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TRAINED_VOCABULARY,
        special_tokens=list(SPECIAL),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:TRAINING_FILES]
    tokenizer.train([str(file) for file in files], trainer)
    document: dict[str, Any] = json.loads(tokenizer.to_str())
    return document


def padded(document: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """The tokenizer with a merge of two short words for every id that it lacks."""
    vocab: dict[str, int] = document["model"]["vocab"]
    merges: list[Any] = document["model"]["merges"]
    words = sorted(vocab, key=lambda word: vocab[word])
    parts = [w for w in words if w.isascii() and w.isalpha() and 2 <= len(w) <= 6]
    random = np.random.default_rng(7)
    while len(vocab) < vocab_size:
        left, right = (parts[i] for i in random.integers(0, len(parts), 2))
        if left + right not in vocab:
            vocab[left + right] = len(vocab)
            merges.append([left, right])
    return document


def config(size: Size) -> dict[str, Any]:
    """config.json as transformers writes it."""
    name = {
        "llama": "LlamaForCausalLM",
        "qwen3": "Qwen3ForCausalLM",
        "gemma3_text": "Gemma3ForCausalLM",
    }[size.family]
    found = {
        "architectures": [name],
        "model_type": size.family,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": SPECIAL.index(BOS),
        "eos_token_id": SPECIAL.index(EOS),
        "pad_token_id": SPECIAL.index(PAD),
        "hidden_act": "silu",
        "hidden_size": size.hidden,
        "intermediate_size": size.inter,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head_dim,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": size.eps,
        "rope_theta": size.theta,
        "rope_scaling": None,
        "tie_word_embeddings": size.tied,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": size.vocab,
    }
    return found | GEMMA_3 if size.family == "gemma3_text" else found


def tokenizer_config() -> dict[str, Any]:
    """tokenizer_config.json with a ChatML template."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": SPECIAL[0],
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }


def write_folder(folder: Path, size: Size) -> None:
    """Everything that an engine or its converter looks for."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = padded(trained_tokenizer(), size.vocab)
    ids = {f"{name}_token_id": config(size)[f"{name}_token_id"] for name in ("bos", "eos", "pad")}
    for name, document in (
        ("config.json", config(size)),
        ("generation_config.json", {**ids, "do_sample": False}),
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", tokenizer_config()),
        ("vocab.json", tokenizer["model"]["vocab"]),
    ):
        text = json.dumps(document, indent=1, ensure_ascii=False)
        (folder / name).write_text(text, encoding="utf-8")
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    write_weights(folder / "model.safetensors", size)


def main() -> None:
    """Write one folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("name", choices=SIZES)
    args = parser.parse_args()
    write_folder(args.out, SIZES[args.name])


if __name__ == "__main__":
    main()
