"""From an `EngineSpec` to an engine that serves: choose, size, compile or load, put together.

The order is what users want when something is wrong: first what costs nothing to check, then the
decision how large everything is, then what takes time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_llm.compiler.artifact import LibrarySpec, check_metadata
from mlc_llm.compiler.jit import ensure_library
from mlc_llm.compiler.target import choose_device
from mlc_llm.errors import BadModel
from mlc_llm.home import packed_weights
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.models.folder import ModelFolder, open_folder
from mlc_llm.models.gguf.unpack import source_of
from mlc_llm.models.rope import rope_table
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import PROTOCOL_VERSION, Ready
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.quantization.scheme import Scheme
from mlc_llm.serve.memory import host_memory
from mlc_llm.serve.sizing import Limits as Sizes
from mlc_llm.serve.sizing import resolve_limits
from mlc_llm.tokenizers.table import TokenTable
from mlc_llm.tokenizers.text_stream import TextStream
from mlc_llm.tracing.recorder import Recorder
from mlc_llm.weights.cache import Loaded, load_cached
from mlc_llm.weights.load import choose_scheme, weights_bytes
from mlc_llm.weights.memory import huge_empty
from mlc_workers.announce import Announcer
from mlc_workers.cache.kv import KVCache
from mlc_workers.cache.pages import pages_for
from mlc_workers.decide import max_idle_pages, scheduler_limits
from mlc_workers.engine.inbox import Checks, End
from mlc_workers.engine.loop import Engine
from mlc_workers.guided.service import GrammarService, loader
from mlc_workers.main import Built
from mlc_workers.runner.cores import THREADS_VARIABLE, asked_threads, usable_cores
from mlc_workers.runner.final_norm import FinalNorm
from mlc_workers.runner.library import Library, load_library, open_library, use_threads
from mlc_workers.runner.pool import new_pool
from mlc_workers.runner.runner import Runner
from mlc_workers.sampling.sampler import NumpySampler
from mlc_workers.scheduler.limits import Limits
from mlc_workers.scheduler.pace import Pace
from mlc_workers.scheduler.plan import Plan, Span
from mlc_workers.scheduler.scheduler import Scheduler

WARM_TOKENS = PAGE_SIZE
WARM_STREAMS = 8
WARM_STEPS = 3
MAX_TABLES = 8


def check_encoder(generation: GenerationConfig) -> str | None:
    """Why an encoder cannot do this, or None."""
    if generation.pooling is None:
        return "this model only makes embeddings; send its texts to /v1/embeddings"
    return None


class ModelTexts:
    """The vocabulary of a model."""

    def __init__(self, table: TokenTable) -> None:
        self._table = table
        self._complete: TokenTable | None = None
        self._with: dict[tuple[int, ...], TokenTable] = {}
        """By the special tokens that show; a model has few sets of them."""

    def open(self, generation: GenerationConfig) -> TextStream:
        table = self._table
        if generation.show_special_tokens:
            table = self._complete = self._complete or table.with_special_tokens()
        elif generation.shown_tokens:
            table = self._showing(generation.shown_tokens)
        return TextStream(
            table,
            generation.stop_strs,
            continues=generation.continues or generation.grammar is not None,
            keep_stop_str=generation.keep_stop_str,
        )

    def _showing(self, shown: tuple[int, ...]) -> TokenTable:
        if shown not in self._with:
            if len(self._with) >= MAX_TABLES:
                self._with.clear()
            self._with[shown] = self._table.with_special_tokens(shown)
        return self._with[shown]

    def bytes_of(self, token_id: int) -> bytes:
        return self._table.bytes_of(token_id)


def build(spec: EngineSpec, ends: Sequence[End], announcer: Announcer) -> Built:
    """Make the engine that `spec` asks for. Raises `BadModel` or `BadConfig`."""
    announcer.progress("decide", f"reading {source_of(Path(spec.model))}")
    threads, why_threads = _settle_threads(spec)
    folder = open_folder(Path(spec.model))
    device = choose_device(spec.device)
    scheme = choose_scheme(folder, spec.quantization, spec.kv_cache_dtype)
    sizes = _sizes(spec, folder, scheme, device.kind)
    encoder = folder.architecture.encoder
    limits = scheduler_limits(spec, sizes, folder.architecture.vocab_size, whole_prompts=encoder)
    table = TokenTable.load(folder.path)
    if table.rules.word_prefix and not encoder:
        raise BadModel(f"{folder.path}: word pieces do not keep spaces, so no text can be written")
    vocab_size = folder.architecture.vocab_size
    grammars = GrammarService(
        loader(folder.path / "tokenizer.json", max(vocab_size, len(table)), folder.eos_token_ids)
    )
    library, origin = _library(spec, folder, scheme, device.level, announcer)
    kv = KVCache(
        limits.num_pages,
        limits.max_num_sequence,
        pages_for(limits.max_length),
        prefix_cache=spec.prefix_cache_mode != "disable" and not encoder,
        max_idle=max_idle_pages(spec, limits),
    )
    loaded = _load(folder, scheme, library, announcer)
    runner = _runner(folder, scheme, library, kv, limits, loaded.weights)
    pace = _warm_up(runner, kv, limits.max_num_sequence)
    grammars.prepare()  # later it would hold up answers
    sampler = NumpySampler(vocab_size)
    engine = Engine(
        ends,
        Scheduler(limits, kv, pace),
        runner,
        sampler,
        ModelTexts(table),
        Checks(
            vocab_size,
            frozenset(folder.eos_token_ids),
            check_encoder if encoder else sampler.check,
        ),
        Recorder() if spec.enable_tracing else None,
        grammars=grammars,
    )
    decisions = (
        f"device = {device.kind}: {device.reason}",
        f"threads = {threads}: {why_threads}",
        f"quantization = {scheme.name}: {_why_scheme(spec, folder, scheme)}",
        f"library: {origin}",
        f"weights: {loaded.origin}",
        *sizes.decisions,
    )
    return Built(engine, _ready(limits, vocab_size, decisions))


def _library(
    spec: EngineSpec, folder: ModelFolder, scheme: Scheme, level: Level, announcer: Announcer
) -> tuple[Library, str]:
    """The compiled model, and where it is from."""
    wanted = LibrarySpec(folder.architecture, scheme.name, level.value, scheme.kv_dtype)
    if spec.model_lib is None:
        compiled = ensure_library(wanted, announcer.progress)
        return open_library(compiled, spec.threads), compiled.note
    library = load_library(Path(spec.model_lib), spec.threads)
    check_metadata(library.metadata, wanted, spec.model_lib)
    return library, f"{spec.model_lib}, as asked for"


def _settle_threads(spec: EngineSpec) -> tuple[int, str]:
    """How many threads kernels use, and why; before the first kernel."""
    if spec.threads:
        return use_threads(spec.threads), "as asked for"
    if asked := asked_threads():
        return use_threads(asked), f"as {THREADS_VARIABLE} asks"
    return use_threads(usable_cores()), "the physical cores that may be used"


def _sizes(spec: EngineSpec, folder: ModelFolder, scheme: Scheme, device: str) -> Sizes:
    memory = host_memory()
    return resolve_limits(
        spec,
        folder,
        scheme,
        weights_bytes=weights_bytes(folder.architecture, scheme),
        free_bytes=memory.free_bytes,
        total_bytes=memory.total_bytes,
        device=device,
        memory_source=memory.source,
    )


def _load(folder: ModelFolder, scheme: Scheme, library: Library, announcer: Announcer) -> Loaded:
    message = f"loading the weights of {source_of(folder.path).name}"

    def progress(done: int, total: int) -> None:
        announcer.progress("load", message, done / total)

    progress(0, 1)
    return load_cached(folder, scheme, progress, packed_weights(), library.search)


def _runner(
    folder: ModelFolder,
    scheme: Scheme,
    library: Library,
    kv: KVCache,
    limits: Limits,
    weights: Sequence[NDArray[Any]],
) -> Runner:
    arch = folder.architecture
    return Runner(
        library,
        weights,
        new_pool(arch, scheme, limits.num_pages),
        _aligned(rope_table(arch, limits.max_length)),
        kv.table.array,
        arch.vocab_size,
        FinalNorm(arch, scheme, weights),
        max_logits=limits.max_num_sequence + limits.max_read_rows,
    )


def _aligned(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same values where kernels can load whole vectors."""
    out = huge_empty(table.shape, np.float32).view(np.float32)
    out[...] = table
    return out


def _warm_up(runner: Runner, kv: KVCache, most: int) -> Pace:
    """Run a page of tokens, so that the first request does not pay for threads and memory; and see
    what steps cost, for one stream and for several (`most` can decode at a time).
    """
    sequence = kv.open([])
    kv.extend(sequence, 1, [])
    prompt = Plan((Span(sequence.row, 0, (0,) * WARM_TOKENS, True),))
    stream = Span(sequence.row, 0, (0,), True)
    runner.run(prompt)
    decode_s = {n: _seconds(runner, Plan((stream,) * n)) for n in {1, min(WARM_STREAMS, most)}}
    pace = Pace(decode_s, _seconds(runner, prompt) / WARM_TOKENS)
    kv.close(sequence)
    return pace


def _seconds(runner: Runner, plan: Plan) -> float:
    """What a step takes when nothing disturbs it."""
    times = [time.perf_counter()]
    for _ in range(WARM_STEPS):
        runner.run(plan)
        times.append(time.perf_counter())
    return min(end - began for began, end in pairwise(times))


def _why_scheme(spec: EngineSpec, folder: ModelFolder, scheme: Scheme) -> str:
    if folder.quantization == scheme.name:
        return "what the folder is stored in"
    if folder.quantization is not None:
        return f"of those that kernels read, what keeps {folder.quantization} of the folder best"
    if spec.quantization is not None:
        return "as asked for"
    if folder.best_served == scheme.name:
        return "of those that kernels read, what keeps the stored weights best"
    millions = folder.architecture.num_parameters / 1e6
    return f"for a model of {millions:.3g} million parameters"


def _ready(limits: Limits, vocab_size: int, decisions: tuple[str, ...]) -> Ready:
    return Ready(
        protocol_version=PROTOCOL_VERSION,
        pid=os.getpid(),
        vocab_size=vocab_size,
        max_num_sequence=limits.max_num_sequence,
        max_total_sequence_length=limits.num_pages * PAGE_SIZE,
        max_single_sequence_length=limits.max_length,
        prefill_chunk_size=limits.prefill_chunk_size,
        decisions=decisions,
    )
