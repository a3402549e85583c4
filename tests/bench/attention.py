"""Paged attention alone, against the hardware: decode in GB/s of KV, prefill in GFLOP/s; and a
context that tasks share (`share`), against one task alone.

The kernel runs over a pool of so many layers that nothing of one call is in cache at the next, with
every page somewhere else. The read ceiling, and for prefill the multiply-add ceiling, are measured
between the calls: a shared machine drifts within seconds. FLOPs are those of visible pairs only.

    PYTHONPATH=pkg:workers:api python tests/bench/attention.py [decode prefill share] \
        [--shapes 32,8,64 ...] [--kv float16 ...] [--contexts 512 ...] [--batches 1 ...]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tvm
from ceiling import CHUNK, READ_BYTES, THREADS, read_kernel
from numpy.typing import NDArray
from tvm.script import tirx as T

from mlc_llm.compiler.abi import PAGE_SIZE, TILE_ROWS, round_up
from mlc_llm.kernels.cpu.attention import attention
from mlc_llm.kernels.cpu.kv_format import KvFormat
from mlc_llm.kernels.cpu.level import Level, detect
from mlc_llm.kernels.cpu.lowering import compile_module
from mlc_llm.kernels.cpu.target import target
from mlc_llm.kernels.reference_attention import narrow, pack_pool
from mlc_llm.quantization.scheme import KvDtype, kv_elements, kv_storage, kv_width
from mlc_llm.weights.memory import huge_empty

SHAPES = ["32,8,64", "16,8,128", "12,12,64"]
ALONE = ["8,1,256", "32,1,128", "8,1,64"]
"""Shapes of one KV head."""
COLD_BYTES = 256 << 20
"""KV that is read before any of it is read again."""

FMA_ROUNDS = 1 << 18
Call = Callable[[], object]


class Shape(NamedTuple):
    """Query heads, KV heads, head size, and what the pool holds."""

    heads: int
    kv_heads: int
    head_dim: int
    kv_dtype: KvDtype

    def __str__(self) -> str:
        return f"({self.heads}, {self.kv_heads}, {self.head_dim}) {self.kv_dtype}"


class Work(NamedTuple):
    """`batch` sequences that compute `rows` tokens each after `context` earlier ones."""

    batch: int
    rows: int
    context: int

    @property
    def pages(self) -> int:
        """Pages of one sequence."""
        return -(-(self.context + self.rows) // PAGE_SIZE)

    @property
    def pairs(self) -> int:
        """Tokens that attend, times tokens they see."""
        return self.batch * (self.rows * self.context + self.rows * (self.rows + 1) // 2)


def compiled(function: Any, level: Level) -> Any:
    module = tvm.IRModule({"kernel": function.with_attr("global_symbol", "kernel")})
    return compile_module(module, level)["kernel"]


def tensor(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Aligned memory of zeros."""
    found = huge_empty(shape, dtype)
    found[...] = 0
    return found


def as_stored(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Floats, or the bits of bfloat16."""
    return narrow(values) if dtype == "uint16" else values.astype(dtype)


def calls(kernel: Any, shape: Shape, work: Work, parts: int | None = None) -> Iterator[Call]:
    """Calls of the kernel, each on the next layer of a pool, without end."""
    padded, rng = round_up(shape.head_dim, 16), np.random.default_rng(0)
    pages, n = work.batch * work.pages, work.batch * work.rows
    page = (shape.kv_heads, 2, kv_elements(shape.kv_dtype, PAGE_SIZE, shape.head_dim))
    layer_bytes = pages * math.prod(page) * np.dtype(kv_storage(shape.kv_dtype)).itemsize
    layers = max(2, -(-COLD_BYTES // layer_bytes))
    pool = tensor((layers, pages, *page), kv_storage(shape.kv_dtype))
    values = rng.standard_normal((*page[:2], PAGE_SIZE * padded), np.float32)
    pool[...] = pack_pool(values, shape.kv_dtype)
    table = tensor((work.batch, work.pages), "int32")
    table[...] = rng.permutation(pages).reshape(table.shape)
    starts = range(0, work.rows, TILE_ROWS)
    parts = parts or (THREADS if work.rows == 1 else shape.kv_heads)
    tiles = tensor((work.batch * len(starts), 4), "int32")
    tiles[:] = [
        (seq * work.rows + start, min(TILE_ROWS, work.rows - start), seq, parts)
        for seq in range(work.batch)
        for start in starts
    ]
    positions = tensor((n,), "int32")
    positions[:] = np.tile(np.arange(work.rows) + work.context, work.batch)
    factors = KvFormat(detect(), shape.kv_dtype).factor_dtype
    q = tensor((n, shape.heads, padded), factors)
    values = rng.standard_normal(q.shape, np.float32) / np.float32(math.sqrt(shape.head_dim))
    q[...] = as_stored(values, factors)
    out = tensor((n, shape.heads * shape.head_dim), "float32")
    before = [tvm.runtime.from_dlpack(a) for a in (q, pool, table, tiles, positions)]
    after = tvm.runtime.from_dlpack(out)
    layer = 0
    while True:
        yield lambda at=layer: kernel(*before, at, after)
        layer = (layer + 1) % layers


def fma_kernel() -> Any:
    """Independent multiply-adds on registers: the float32 peak."""

    @T.prim_func
    def fma(X: T.Buffer((32,), "float32"), Y: T.Buffer((THREADS * 192,), "float32")):
        T.func_attr({"global_symbol": "fma", "tirx.noalias": True})
        for task in T.parallel(THREADS):
            acc = T.alloc_buffer((192,), "float32", scope="global")
            for u in T.unroll(12):
                acc[T.ramp(u * 16, 1, 16)] = T.broadcast(T.Cast("float32", task), 16)
            for _i in T.serial(FMA_ROUNDS):
                for u in T.unroll(12):
                    acc[T.ramp(u * 16, 1, 16)] = T.call_llvm_pure_intrin(
                        "float32x16",
                        "llvm.fma",
                        X[T.ramp(0, 1, 16)],
                        X[T.ramp(16, 1, 16)],
                        acc[T.ramp(u * 16, 1, 16)],
                    )
            for u in T.unroll(12):
                Y[T.ramp(task * 192 + u * 16, 1, 16)] = acc[T.ramp(u * 16, 1, 16)]

    return fma


def read_call() -> Call:
    """A call that reads READ_BYTES."""
    data = huge_empty((READ_BYTES // 4,), "int32")
    data[:] = 1
    out = tvm.runtime.empty((READ_BYTES // 4 // CHUNK * 16,), "int32")
    read = tvm.compile(read_kernel(), target=target(detect()))["read"]
    source = tvm.runtime.from_dlpack(data)
    return lambda: read(source, out)


def fma_call() -> Call:
    """A call of FMA_ROUNDS * 12 * 32 floating-point operations a thread."""
    kernel = tvm.compile(fma_kernel(), target=target(detect()))["fma"]
    x = tvm.runtime.tensor(np.zeros(32, np.float32))
    y = tvm.runtime.empty((THREADS * 192,), "float32")
    return lambda: kernel(x, y)


def seconds_of(call: Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def duel(ceiling: Call, work: Iterator[Call], seconds: float) -> tuple[float, float]:
    """Median seconds of the ceiling's call and of the work's, taking turns."""
    next(work)()
    limits: list[float] = []
    samples: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(samples) < 5:
        limits.append(seconds_of(ceiling))
        turn = 0.0
        while turn < limits[-1]:
            samples.append(seconds_of(next(work)))
            turn += samples[-1]
    return statistics.median(limits), statistics.median(samples)


def decode(kernel: Any, shape: Shape, work: Work, read: Call, seconds: float) -> None:
    """Measure and print one line of decode."""
    limit, spent = duel(read, calls(kernel, shape, work), seconds)
    of_page = kv_elements(shape.kv_dtype, PAGE_SIZE, shape.head_dim) * kv_width(shape.kv_dtype)
    kv = work.batch * (work.context + 1) * 2 * shape.kv_heads * of_page / PAGE_SIZE
    ceiling, rate = READ_BYTES / limit / 1e9, kv / spent / 1e9
    print(
        f"decode {shape!s:26} context {work.context + 1:5} batch {work.batch:3}:"
        f" {spent * 1e6:8.0f} us {rate:6.1f} GB/s, {rate / ceiling:4.0%} of {ceiling:5.1f}",
        flush=True,
    )


def share(kernel: Any, shape: Shape, work: Work, seconds: float) -> None:
    """Measure and print one line: a context by one task, and by as many as there are threads."""
    one = calls(kernel, shape, work, 1)
    alone, shared = duel(lambda: next(one)(), calls(kernel, shape, work, THREADS), seconds)
    print(
        f"share {shape!s:27} context {work.context + 1:5}: {alone * 1e6:8.1f} us by one task,"
        f" {shared * 1e6:8.1f} us by {THREADS}",
        flush=True,
    )


def prefill(kernel: Any, shape: Shape, work: Work, fma: Call, seconds: float) -> None:
    """Measure and print one line of prefill."""
    limit, spent = duel(fma, calls(kernel, shape, work), seconds)
    ceiling = THREADS * FMA_ROUNDS * 12 * 32 / limit / 1e9
    rate = work.pairs * shape.heads * shape.head_dim * 4 / spent / 1e9
    print(
        f"prefill {shape!s:25} context {work.context:5} rows {work.rows:4}: {spent * 1e3:8.2f} ms"
        f" {rate:6.1f} GFLOP/s, {rate / ceiling:4.0%} of {ceiling:5.0f}",
        flush=True,
    )


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description="paged attention against the hardware")
    parser.add_argument("what", nargs="*", default=["decode", "prefill"])
    parser.add_argument("--shapes", nargs="*")
    parser.add_argument("--kv", nargs="*", default=["bfloat16", "float16", "int8"])
    parser.add_argument("--contexts", nargs="*", type=int, default=[512, 2048, 4096])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=0.3)
    args = parser.parse_args()
    level, read, fma = detect(), read_call(), fma_call()
    for sizes in args.shapes or (ALONE if args.what == ["share"] else SHAPES):
        for kv_dtype in args.kv:
            heads, kv_heads, head_dim = (int(size) for size in sizes.split(","))
            shape = Shape(heads, kv_heads, head_dim, kv_dtype)
            kernel = compiled(attention(level, *shape), level)
            if "decode" in args.what:
                for context in args.contexts:
                    for batch in args.batches:
                        work = Work(batch, 1, context - 1)
                        decode(kernel, shape, work, read, args.seconds)
            if "share" in args.what:
                for context in args.contexts:
                    share(kernel, shape, Work(1, 1, context - 1), args.seconds)
            if "prefill" in args.what:
                for context in (0, 2048):
                    prefill(kernel, shape, Work(1, 512, context), fma, args.seconds)


if __name__ == "__main__":
    main()
