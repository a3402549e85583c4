"""Small random Llamas, compiled in memory and driven by plans, next to their float64 oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_llm.compiler.artifact import LibrarySpec, essential
from mlc_llm.compiler.build import compile_in_memory
from mlc_llm.kernels.cpu.level import Level, detect
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.folder import open_folder
from mlc_llm.models.parameters import parameters
from mlc_llm.models.rope import rope_table
from mlc_llm.quantization.encode import quantize_bytes
from mlc_llm.quantization.group import quantize
from mlc_llm.quantization.scheme import KvDtype, scheme_by_name
from mlc_llm.weights.load import load_weights
from mlc_llm.weights.memory import huge_empty
from mlc_llm.weights.pack import pack, unpack_weights
from mlc_workers.runner.final_norm import FinalNorm
from mlc_workers.runner.library import Library, use_threads
from mlc_workers.runner.pool import new_pool
from mlc_workers.runner.runner import Runner
from mlc_workers.scheduler.plan import Plan, Span
from support.oracle import Oracle, random_weights

CONTEXT = 320
NUM_ROWS = 12
QUANTIZERS = {"q4": quantize, "q8": quantize_bytes}
PAGES_PER_ROW = CONTEXT // PAGE_SIZE


def architecture(**changed: Any) -> Architecture:
    """A three-layer Llama with grouped queries, narrow heads and a size that fills no block."""
    sizes: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "vocab_size": 105,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "context_window_size": CONTEXT,
    }
    return Architecture(**{**sizes, **changed})


def in_no_time(spec: LibrarySpec, progress: Callable[[str, float], None]) -> object:
    """Stands in for `compile_in_memory` where nobody runs the model."""
    progress("compiled", 1.0)
    return spec


@cache
def library(
    arch: Architecture,
    quantization: str,
    kv_dtype: KvDtype | None = None,
    level: Level | None = None,
) -> Library:
    """The compiled model, for this CPU or the level that is named; one compilation in a session."""
    use_threads(2)
    spec = LibrarySpec(arch, quantization, (level or detect()).value, kv_dtype)
    return Library(compile_in_memory(spec, lambda _message, _done: None))


def packed_weights(arch: Architecture, quantization: str, seed: int) -> list[NDArray[Any]]:
    """Random weights as `step` takes them."""
    scheme = scheme_by_name(quantization)
    values = random_weights(arch, seed)
    packed: list[NDArray[Any]] = []
    for spec in parameters(arch):
        weights = scheme.format_of(spec.name)
        tensors = [huge_empty(t.shape, t.dtype) for t in spec.tensors(weights)]
        stored = values[spec.name]
        if weights in QUANTIZERS and spec.kind != "vector":
            pack(spec, QUANTIZERS[weights](stored), tensors)
        else:
            pack(spec, stored.astype(np.float16 if weights == "f16" else np.float32), tensors)
        packed += tensors
    return packed


class CompiledModel:
    """A runner over a pool where row r of the page table owns pages of its own, in mixed order."""

    def __init__(
        self,
        arch: Architecture,
        quantization: str,
        packed: list[NDArray[Any]],
        seed: int = 0,
        kv_dtype: KvDtype | None = None,
        level: Level | None = None,
    ) -> None:
        self.arch = arch
        num_pages = NUM_ROWS * PAGES_PER_ROW
        self.table: NDArray[np.int32] = huge_empty((NUM_ROWS, PAGES_PER_ROW), np.int32).view(
            np.int32
        )
        order = np.random.default_rng(seed).permutation(num_pages)
        self.table[:] = order.reshape(NUM_ROWS, PAGES_PER_ROW)
        self.pool = new_pool(arch, scheme_by_name(quantization, kv_dtype), num_pages)
        not_a_number = {np.dtype(np.uint16): 0x7FC0, np.dtype(np.uint8): 0xFF}
        self.pool[...] = not_a_number.get(self.pool.dtype, np.nan)
        rope = huge_empty((CONTEXT, arch.rope_width), np.float32).view(np.float32)
        rope[:] = rope_table(arch, CONTEXT)
        norm = FinalNorm(arch, scheme_by_name(quantization), packed)
        step = library(essential(arch), quantization, kv_dtype, level)
        self.runner = Runner(step, packed, self.pool, rope, self.table, arch.vocab_size, norm)

    def run(self, *spans: Span, copies: Sequence[tuple[int, int]] = ()) -> NDArray[np.float32]:
        """One step; the logits are a copy."""
        return self.runner.run(Plan(spans, tuple(copies))).copy()


class SmallModel(CompiledModel):
    """A model of random weights, and its oracle."""

    def __init__(
        self,
        arch: Architecture,
        quantization: str,
        seed: int = 0,
        kv_dtype: KvDtype | None = None,
        level: Level | None = None,
    ) -> None:
        packed = packed_weights(arch, quantization, seed)
        super().__init__(arch, quantization, packed, seed, kv_dtype, level)
        scheme = scheme_by_name(quantization)
        self.oracle = Oracle(arch, unpack_weights(arch, scheme, packed))


class FolderModel(CompiledModel):
    """The model in a folder, loaded as the engine loads it."""

    def __init__(self, path: Path, quantization: str) -> None:
        folder = open_folder(path)
        packed = load_weights(folder, scheme_by_name(quantization))
        super().__init__(folder.architecture, quantization, packed)


def span(row: int, start: int, tokens: Sequence[int], sample: bool = True) -> Span:
    """Tokens of the sequence in `row`, from position `start` on."""
    return Span(row, start, list(tokens), sample)
