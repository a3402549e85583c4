"""`mlc_llm model_metadata`: what a compiled library says of itself, or what memory it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mlc_llm.arguments import ArgumentParser
from mlc_llm.compiler.artifact import Metadata
from mlc_llm.compiler.inspect_library import library_metadata
from mlc_llm.errors import BadModel
from mlc_llm.models.document import read_json
from mlc_llm.models.mlc import ChatConfig, positive
from mlc_llm.quantization.scheme import scheme_by_name
from mlc_llm.serve.sizing import PAGE_SIZE, kv_bytes_per_page

TOKENS = 4096
"""Tokens of context that the memory is told for, as MLC LLM tells it."""


def main(argv: Sequence[str]) -> int:
    """Print; 0 then. Raises `MLCError`."""
    given = _parser().parse_args(argv)
    text = library_metadata(given.library)
    try:
        metadata = msgspec.json.decode(text, type=Metadata)
    except msgspec.MsgspecError:
        raise BadModel(f"{given.library} was compiled by another program") from None
    if given.memory_only:
        tokens = TOKENS
        if given.mlc_chat_config is not None:
            config = read_json(given.mlc_chat_config, ChatConfig)
            tokens = positive(config.context_window_size) or TOKENS
        print(memory(metadata, tokens))
    else:
        print(document(metadata))
    return 0


def document(metadata: Metadata) -> str:
    """All of it as JSON, first by MLC LLM's keys, then by ours, each weight on a line of its own.

    MLC LLM's `memory_usage` is not there: what a step takes beside weights and pages grows with it.
    """
    fields = msgspec.to_builtins(metadata)
    params = fields.pop("params")
    weights = [msgspec.json.encode({**spec, "preprocs": []}).decode() for spec in params]
    fields = {"model_type": "", "quantization": "", **mlc_fields(metadata), **fields}
    head = msgspec.json.format(msgspec.json.encode(fields), indent=2).decode()
    listed = ",\n".join(f"    {weight}" for weight in weights)
    return f'{head.rstrip().removesuffix("}").rstrip()},\n  "params": [\n{listed}\n  ]\n}}'


def mlc_fields(metadata: Metadata) -> dict[str, Any]:
    """What MLC LLM's libraries say and ours have no word for.

    A library of ours serves any context, chunk and batch within `max_rows` tokens of a step.
    """
    arch = metadata.architecture
    return {
        "context_window_size": arch.context_window_size or -1,
        "sliding_window_size": arch.sliding_window or -1,
        "attention_sink_size": -1,
        "prefill_chunk_size": metadata.max_rows,
        "max_batch_size": metadata.max_rows,
        "tensor_parallel_shards": 1,
        "pipeline_parallel_stages": 1,
        "disaggregation": False,
        "kv_state_kind": "none" if arch.encoder else "kv_cache",
        "active_vocab_size": arch.vocab_size,
        "model_task": "embedding" if arch.encoder else "chat",
        "kv_cache": {
            "num_hidden_layers": arch.num_hidden_layers,
            "head_dim": arch.head_dim,
            "num_attention_heads": arch.num_attention_heads,
            "num_key_value_heads": arch.num_key_value_heads,
        },
    }


def memory(metadata: Metadata, tokens: int) -> str:
    """What weights and a context of `tokens` take."""
    scheme = scheme_by_name(metadata.quantization, metadata.kv_cache_dtype)
    weights = sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in metadata.params)
    token = kv_bytes_per_page(metadata.architecture, scheme) / PAGE_SIZE
    return (
        f"weights: {weights / 1e6:.1f} MB\n"
        f"KV cache: {token / 1e6:.4f} MB per token ({scheme.kv_dtype})\n"
        f"with {tokens} tokens of context: {(weights + tokens * token) / 1e6:.1f} MB"
    )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "mlc_llm model_metadata", "Print what a library of `mlc_llm compile` says of itself."
    )
    parser.add_argument("library", metavar="LIBRARY", type=Path, help="the .so file")
    parser.add_argument(
        "--mlc-chat-config",
        metavar="FILE",
        type=Path,
        help="take the context window of --memory-only from this mlc-chat-config.json",
    )
    parser.add_argument("--memory-only", action="store_true", help="print what memory it takes")
    return parser
