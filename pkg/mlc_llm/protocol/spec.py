"""What the engine process is told when it starts: one JSON document on its standard input."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

KvCacheDtype = Literal["auto", "float32", "float16", "bfloat16", "int8"]
"""What keys and values are kept in; auto: what the quantization computes with."""


class EngineSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything `mlc_workers.main` needs to build an engine. None means: decide for me."""

    model: str
    """Path of the model folder, resolved by the client (a Hugging Face or an MLC folder)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:0, ..."""
    model_lib: str | None = None
    quantization: str | None = None
    kv_cache_dtype: KvCacheDtype = "auto"
    mode: Literal["local", "interactive", "server"] = "local"
    max_num_sequence: int | None = None
    max_total_sequence_length: int | None = None
    max_single_sequence_length: int | None = None
    prefill_chunk_size: int | None = None
    sliding_window_size: int | None = None
    attention_sink_size: int | None = None
    gpu_memory_utilization: float | None = None
    prefill_mode: Literal["hybrid", "chunked"] = "hybrid"
    prefix_cache_mode: Literal["disable", "radix"] = "radix"
    prefix_cache_max_num_recycling_seqs: int | None = None
    enable_tracing: bool = False
    max_waiting: int = 1024
    """Requests that may wait for a place before new ones are refused with `Overloaded`."""
    threads: int | None = None
    verbose: bool = False
    """Print the traceback of what nobody expected on standard error."""
