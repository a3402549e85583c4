"""From a model folder to the packed arrays that `step` takes.

Weights stream through in chunks of rows, on every core: read, convert or quantize, pack. Memory
beyond the result is a few megabytes for each thread, whatever the size of the model.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc_llm.errors import BadConfig, BadModel
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.folder import ModelFolder
from mlc_llm.models.parameters import ParameterSpec, tensor_specs
from mlc_llm.protocol.spec import KvCacheDtype
from mlc_llm.quantization.group import Quantized
from mlc_llm.quantization.scheme import SCHEMES, Scheme, scheme_by_name, with_kv
from mlc_llm.quantization.search import Search
from mlc_llm.quantization.storage import STORAGES
from mlc_llm.weights import tensor_cache
from mlc_llm.weights.binding import Binding, Stored, bind
from mlc_llm.weights.memory import keep_freed_memory, side_by_side
from mlc_llm.weights.pack import Chunk, chunks, pack_floats, pack_words
from mlc_llm.weights.rows import RowReader, row_reader
from mlc_llm.weights.sources.find import find_tensors

AnyArray = NDArray[Any]
Progress = Callable[[int, int], None]
"""Called with the bytes of packed weights that are ready, and with all of them."""

SCHEMES_BY_SIZE = ((300_000_000, "q4f16_1"), (10_000_000, "q8f16_1"), (0, "q0f32"))
"""For a Hugging Face folder unless the user says otherwise: the first row whose number of
parameters the model exceeds. What each costs in perplexity is measured in `tests/bench`."""

TASK_CHUNKS = 4
"""Chunks one thread takes at a time: few enough to balance, enough to be rarely scheduled."""


def choose_scheme(
    folder: ModelFolder, requested: str | None, kv_cache_dtype: KvCacheDtype = "auto"
) -> Scheme:
    """The quantization to serve with, and what keys and values are kept in.

    Raises what `choose_quantization` raises, and `BadConfig` for a model whose keys and values
    cannot be kept so.
    """
    scheme = choose_quantization(folder, requested)
    if kv_cache_dtype == "auto":
        return scheme
    if kv_cache_dtype == "int8" and folder.architecture.latent is not None:
        raise BadConfig(
            f"kv_cache_dtype int8 is not supported for {folder.architecture.model_type} models,"
            " which keep one small vector for each token; leave it out"
        )
    return with_kv(scheme, kv_cache_dtype)


def choose_quantization(folder: ModelFolder, requested: str | None) -> Scheme:
    """The quantization to serve with, and its own KV cache.

    The one asked for, else the nearest to what the folder is stored in (`quantization.storage` says
    which and why; `models.quantized` for Hugging Face's), else by the model's size
    (`SCHEMES_BY_SIZE`). Raises `BadConfig` when the folder is stored in another than the one asked
    for, `BadModel` when that is not supported.
    """
    if folder.quantization is None:
        size = folder.architecture.num_parameters
        by_size = next(name for above, name in SCHEMES_BY_SIZE if size > above)
        return scheme_by_name(requested or folder.best_served or by_size)
    if folder.quantization not in STORAGES:
        known = ", ".join(STORAGES)
        raise BadModel(
            f"{folder.path}: quantization {folder.quantization!r} is not supported; use {known}"
        )
    served = STORAGES[folder.quantization].served
    if requested not in (None, folder.quantization, served):
        raise BadConfig(
            f"quantization {requested!r} was asked for but {folder.path} is stored as "
            f"{folder.quantization}; leave the option out or use another folder"
        )
    return SCHEMES[served]


def weights_bytes(arch: Architecture, scheme: Scheme) -> int:
    """Memory that the packed weights of a model take."""
    return sum(
        math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in tensor_specs(arch, scheme)
    )


def load_weights(
    folder: ModelFolder,
    scheme: Scheme,
    progress: Progress | None = None,
    *,
    verify: bool = True,
    threads: int | None = None,
    search: Search | None = None,
) -> list[AnyArray]:
    """The packed weights in the order of `tensor_specs(folder.architecture, scheme)`.

    `progress` is called on the caller's thread. `verify` compares the shards of an MLC folder with
    their checksums first. `search` finds the scales of 4-bit groups. Raises `BadModel` naming the
    file and the tensor that is wrong, before anything large is allocated unless only the values
    show it.
    """
    threads = threads or available_cores()
    keep_freed_memory()
    if folder.format == "mlc":
        tensors = tensor_cache.find_tensors(folder.path, verify=verify, threads=threads)
    else:
        tensors = find_tensors(folder.path)
    bindings = bind(folder, scheme, tensors)
    specs = tensor_specs(folder.architecture, scheme)
    packed = side_by_side((spec.shape, spec.dtype) for spec in specs)
    with ThreadPoolExecutor(threads, thread_name_prefix="weights") as pool:
        try:
            tasks = [pool.submit(task) for task in _tasks(bindings, scheme, packed, search)]
            _wait(tasks, sum(array.nbytes for array in packed), progress)
        finally:
            pool.shutdown(cancel_futures=True)
    return packed


def available_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _wait(tasks: Sequence[Future[int]], total: int, progress: Progress | None) -> None:
    done = 0
    for task in as_completed(tasks):
        done += task.result()
        if progress is not None:
            progress(done, total)


def _tasks(
    bindings: Sequence[Binding],
    scheme: Scheme,
    packed: Sequence[AnyArray],
    search: Search | None,
) -> Iterator[Callable[[], int]]:
    """The work in pieces that threads may take in any order; each gives the bytes it wrote."""
    arrays = iter(packed)
    for spec, stored in bindings:
        weights = scheme.format_of(spec.name)
        out = list(islice(arrays, len(spec.tensors(weights))))
        if spec.kind == "vector":
            yield partial(_load_vector, stored, out[0])
            continue
        read = row_reader(stored, weights, search)
        remaining = chunks(spec)
        while some := list(islice(remaining, TASK_CHUNKS)):
            yield partial(_load_chunks, spec, read, some, out)


def _load_vector(stored: Stored, out: AnyArray) -> int:
    out[...] = row_reader(stored, "f32")(0, len(out))
    return out.nbytes


def _load_chunks(
    spec: ParameterSpec, read: RowReader, some: Sequence[Chunk], out: Sequence[AnyArray]
) -> int:
    for first, last, blocks in some:
        rows = read(first, last)
        if isinstance(rows, Quantized):
            pack_words(rows, spec.cols, out[0][blocks], out[1][blocks])
        else:
            pack_floats(rows, out[0][blocks])
    return sum(array[chunk.blocks].nbytes for array in out for chunk in some)
