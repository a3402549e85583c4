"""How large the engine may be: sequences, KV pages, tokens per step, from the memory that is free.

Pure arithmetic over a model's configuration; the engine process calls it after it has looked at its
device. Every decision comes with a sentence that says why, to be printed at start-up.

    budget   = gpu_memory_utilization * free - weights - what one step needs
    KV pages = min(what the mode wants, budget / page)
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from mlc_llm.errors import BadConfig
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.folder import ModelFolder
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.quantization.scheme import Scheme, kv_elements, kv_width

PAGE_SIZE = 16
"""Tokens per KV page; that of `mlc_llm.compiler.abi`, which this side may not import."""

DEFAULT_UTILIZATION = 0.85
LOCAL_SEQUENCES = 4
SERVER_SEQUENCES = 128
LOCAL_TOKENS = 8192
"""Most tokens that mode "local" keeps, whatever the context window."""

SERVER_TOKENS_PER_SEQUENCE = 256
"""Mode "server" takes fewer sequences rather than give each of them less than this."""

DEFAULT_CHUNK = {"cpu": 128, "cuda": 2048}
"""Tokens per step: running streams wait for one step while a new prompt is read."""

MAX_CHUNK = 2048
"""Most tokens that a compiled step takes, whatever the device; `MAX_ROWS` of the same module."""

LEAST_CONTEXT = 2
"""A token in, a token out."""

LEAST_TOKENS = 256
"""A KV cache smaller than this (or than the context window) is not worth starting."""

PROCESS_BYTES = 96 << 20
"""Interpreter, compiled code and tables of the engine process."""


class Limits(Struct, frozen=True, kw_only=True):
    """The sizes of one engine."""

    max_num_sequence: int
    max_total_sequence_length: int
    """Tokens that the KV cache holds: num_pages * PAGE_SIZE."""
    max_single_sequence_length: int
    """Most tokens of one sequence, never more than the KV cache holds."""
    prefill_chunk_size: int
    """Most tokens one step computes, decoding included."""
    num_pages: int
    kv_bytes: int
    decisions: tuple[str, ...]
    """One sentence per decision, with its reason."""


class _Chosen(NamedTuple):
    """A number and why it is that number."""

    value: int
    reason: str


def kv_bytes_per_page(arch: Architecture, scheme: Scheme) -> int:
    """Bytes of one page in all layers."""
    heads, vectors, columns = arch.kv_page
    of_vector = kv_elements(scheme.kv_dtype, PAGE_SIZE, columns) * kv_width(scheme.kv_dtype)
    return arch.num_hidden_layers * heads * vectors * of_vector


def step_bytes(arch: Architecture, *, rows: int, sequences: int, positions: int) -> int:
    """Bytes one step needs beside weights and KV: activations, logits, page and rotary tables.

    An upper estimate in float32, as if every activation of a layer lived at once.
    """
    heads = (2 * arch.num_attention_heads + 2 * arch.num_key_value_heads) * arch.head_dim
    if (latent := arch.latent) is not None:
        heads += arch.num_attention_heads * (2 * latent.rank + latent.value_dim)
    inner = 3 * arch.intermediate_size
    if (experts := arch.experts) is not None:
        chosen = experts.per_token * (experts.intermediate_size + 4)
        inner = max(inner, chosen + experts.count + 3 * experts.shared_size)
    activations = rows * (4 * arch.hidden_size + heads + inner)
    logits = 3 * sequences * _round_up(arch.vocab_size, 16)
    page_table = sequences * -(-positions // PAGE_SIZE)
    rotary = positions * arch.head_dim
    return 4 * (activations + logits + page_table + rotary)


def resolve_limits(
    spec: EngineSpec,
    folder: ModelFolder,
    scheme: Scheme,
    *,
    weights_bytes: int,
    free_bytes: int,
    total_bytes: int,
    device: str = "cpu",
    memory_source: str = "free memory",
) -> Limits:
    """Fill what the user left open in `spec`, and check what the user set.

    `weights_bytes` is what the weights will still take: 0 when `free_bytes` was measured after they
    were loaded. `device` is a kind ("cpu", "cuda"). Raises `BadConfig` when the memory is too small
    or a value contradicts the model.
    """
    arch = folder.architecture
    context = _context(spec, folder)
    sequences = _sequences(spec)
    chunk = _chunk(spec, folder, device, sequences.value, context.value)
    if arch.encoder:
        chunk = _whole_prompts(spec, chunk, context)
    transient = PROCESS_BYTES + step_bytes(
        arch,
        rows=max(chunk.value, sequences.value),
        sequences=sequences.value,
        positions=context.value,
    )
    page = kv_bytes_per_page(arch, scheme)
    budget = _Budget(spec, weights_bytes, transient, free_bytes, total_bytes, memory_source, page)
    pages = _pages(spec, budget, sequences.value, context.value)
    if spec.max_num_sequence is None and spec.mode == "server":
        sequences = _fewer(sequences, pages.value)
    single = min(context.value, pages.value * PAGE_SIZE)
    kv_bytes = pages.value * page
    return Limits(
        max_num_sequence=sequences.value,
        max_total_sequence_length=pages.value * PAGE_SIZE,
        max_single_sequence_length=single,
        prefill_chunk_size=chunk.value,
        num_pages=pages.value,
        kv_bytes=kv_bytes,
        decisions=(
            f"memory: {size(free_bytes)} of {size(total_bytes)} are free ({memory_source});"
            f" {budget.share:.0%} of that may be used: weights {size(weights_bytes)},"
            f" KV cache {size(kv_bytes)}, one step {size(transient)}",
            f"max_num_sequence = {sequences.value}: {sequences.reason}",
            f"max_total_sequence_length = {pages.value * PAGE_SIZE} ({pages.value} pages of"
            f" {PAGE_SIZE} tokens, {scheme.kv_dtype}): {pages.reason}",
            f"max_single_sequence_length = {single}: "
            + (context.reason if single == context.value else "all that the KV cache holds"),
            f"prefill_chunk_size = {chunk.value}: {chunk.reason}",
        ),
    )


def size(num_bytes: int) -> str:
    """Bytes for people: "1.2 GiB"."""
    if num_bytes >= 1 << 30:
        return f"{num_bytes / (1 << 30):.1f} GiB"
    return f"{num_bytes / (1 << 20):.1f} MiB"


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _context(spec: EngineSpec, folder: ModelFolder) -> _Chosen:
    """Most tokens of one sequence, before the KV cache's size is known."""
    most = folder.architecture.context_window_size
    chosen = _Chosen(folder.context_window_size, "the model's context window")
    if folder.architecture.encoder:
        reason = "the longest input, and the place of an answer that never comes"
        chosen = _Chosen(min(chosen.value + 1, MAX_CHUNK), reason)
    if (asked := spec.max_single_sequence_length) is not None:
        if asked > most:
            raise BadConfig(
                f"max_single_sequence_length (context_window_size) {asked} is more than the {most}"
                f" positions this model was made for; set it to at most {most}"
            )
        chosen = _Chosen(asked, "as asked for")
    window = spec.sliding_window_size or folder.sliding_window_size
    if window is not None and 0 < window < chosen.value and not _slides(folder, window):
        # Up to the window's length, attending to a window and attending to everything are the same.
        chosen = _Chosen(window, "the model's sliding window, which this version does not slide")
    if chosen.value < LEAST_CONTEXT:
        raise BadConfig(
            f"a sequence may have {chosen.value} token ({chosen.reason}), but a prompt and its"
            f" answer have at least {LEAST_CONTEXT}; serve another model"
        )
    return chosen


def _slides(folder: ModelFolder, window: int) -> bool:
    """Whether all layers attend to such a window by themselves."""
    arch = folder.architecture
    return arch.sliding_window == window and len(arch.sliding_layers) == arch.num_hidden_layers


def _sequences(spec: EngineSpec) -> _Chosen:
    if spec.max_num_sequence is not None:
        return _Chosen(spec.max_num_sequence, "as asked for")
    if spec.mode == "server":
        return _Chosen(SERVER_SEQUENCES, 'as many as mode "server" takes')
    value = 1 if spec.mode == "interactive" else LOCAL_SEQUENCES
    return _Chosen(value, f'what mode "{spec.mode}" takes')


def _fewer(sequences: _Chosen, pages: int) -> _Chosen:
    """Mode "server" in little memory."""
    fit = max(1, pages * PAGE_SIZE // SERVER_TOKENS_PER_SEQUENCE)
    if fit >= sequences.value:
        return sequences
    return _Chosen(fit, f"the KV cache holds {SERVER_TOKENS_PER_SEQUENCE} tokens for each of them")


def _chunk(
    spec: EngineSpec, folder: ModelFolder, device: str, sequences: int, context: int
) -> _Chosen:
    """Tokens per step: room for every running sequence and as much again for new prompts."""
    if spec.prefill_chunk_size is not None:
        return _Chosen(spec.prefill_chunk_size, "as asked for")
    usual = max(DEFAULT_CHUNK.get(device, DEFAULT_CHUNK["cuda"]), 2 * sequences)
    usual = min(usual, MAX_CHUNK)
    most = max(folder.prefill_chunk_size or usual, sequences)
    if sequences < context < min(usual, most):
        return _Chosen(context, "the longest sequence")
    if most < usual:
        return _Chosen(most, "the model's own chunk size")
    return _Chosen(usual, f"keeps a step on {device} short while new prompts are read")


def _whole_prompts(spec: EngineSpec, chunk: _Chosen, context: _Chosen) -> _Chosen:
    """An encoder reads a prompt at once."""
    if chunk.value >= context.value:
        return chunk
    if spec.prefill_chunk_size is not None:
        raise BadConfig(
            f"prefill_chunk_size {chunk.value} is less than the {context.value} tokens that this"
            " model may have to read at once; leave it out or lower max_single_sequence_length"
        )
    return _Chosen(context.value, "the longest input, which is read at once")


class _Budget(NamedTuple):
    """Where the memory goes, in bytes."""

    spec: EngineSpec
    weights: int
    transient: int
    free: int
    total: int
    source: str
    page: int

    @property
    def share(self) -> float:
        given = self.spec.gpu_memory_utilization
        return DEFAULT_UTILIZATION if given is None else given

    @property
    def pages(self) -> int:
        """KV pages that fit the share of the free memory."""
        return (int(self.free * self.share) - self.weights - self.transient) // self.page

    def refuse(self, pages: int, advice: str) -> BadConfig:
        """The error for a KV cache of `pages` pages that does not fit."""
        kv = pages * self.page
        return BadConfig(
            f"not enough memory: {size(self.weights + self.transient + kv)} are needed"
            f" (weights {size(self.weights)}, KV cache {size(kv)} for {pages * PAGE_SIZE} tokens,"
            f" one step {size(self.transient)}), but of {size(self.free)} free ({self.source})"
            f" this engine may use {self.share:.0%}, {size(int(self.free * self.share))}; {advice}"
        )


def _pages(spec: EngineSpec, budget: _Budget, sequences: int, context: int) -> _Chosen:
    if (asked := spec.max_total_sequence_length) is not None:
        pages = -(-asked // PAGE_SIZE)
        if pages > budget.pages:
            most = budget.pages * PAGE_SIZE
            raise budget.refuse(
                pages,
                f"set max_total_seq_length to at most {most} or raise gpu_memory_utilization"
                if most > 0
                else "free memory, raise gpu_memory_utilization or use a smaller model",
            )
        return _Chosen(pages, "as asked for")
    wanted, reason = _wanted(spec.mode, sequences, context)
    least = -(-min(LEAST_TOKENS, wanted) // PAGE_SIZE)
    if budget.pages < least:
        raise budget.refuse(
            least,
            "free memory, raise gpu_memory_utilization, lower prefill_chunk_size or use a smaller"
            " model or quantization",
        )
    pages = -(-wanted // PAGE_SIZE)
    if budget.pages < pages:
        return _Chosen(
            budget.pages, f"all that fits; mode {spec.mode!r} would take {wanted} tokens"
        )
    return _Chosen(pages, reason)


def _wanted(mode: str, sequences: int, context: int) -> tuple[int, str]:
    """Tokens a mode keeps when memory is no matter."""
    full = sequences * context
    if mode == "interactive":
        return context, "one whole context window"
    if mode == "local" and full > LOCAL_TOKENS:
        return min(full, LOCAL_TOKENS), f'mode "local" keeps {LOCAL_TOKENS} tokens'
    return full, f"{sequences} whole context windows"
