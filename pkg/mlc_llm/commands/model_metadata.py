"""`mlc_llm model_metadata`: what a compiled library says of itself, or what memory it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

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
    """All of it as JSON, each weight on a line of its own."""
    fields = msgspec.to_builtins(metadata)
    weights = [msgspec.json.encode(spec).decode() for spec in fields.pop("params")]
    head = msgspec.json.format(msgspec.json.encode(fields), indent=2).decode()
    listed = ",\n".join(f"    {weight}" for weight in weights)
    return f'{head.rstrip().removesuffix("}").rstrip()},\n  "params": [\n{listed}\n  ]\n}}'


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
