"""Where the time of one step goes: whole steps, and each kernel in them, against the hardware.

Runs the compiled `step` on random weights of a model's shapes in this process, without an engine.
The read ceiling and the int8 peak are measured between the steps, so a machine whose bandwidth
drifts still gives shares that can be compared. `between` is what a step takes beyond its kernels.

    PYTHONPATH=pkg:workers:api python tests/bench/step.py MODEL [--regimes decode:128 ...]

A regime is `decode:CONTEXT[:BATCH]` or `prefill:TOKENS[:CONTEXT]`.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tvm
from ceiling import CHUNK, READ_BYTES, THREADS, read_kernel, vnni_kernel
from numpy.typing import NDArray

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_llm.compiler.artifact import LibrarySpec
from mlc_llm.compiler.jit import ensure_library
from mlc_llm.kernels.cpu.level import TRAITS, detect
from mlc_llm.kernels.cpu.target import target
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.folder import open_folder
from mlc_llm.models.parameters import tensor_specs
from mlc_llm.models.rope import rope_table
from mlc_llm.quantization.scheme import Scheme, scheme_by_name
from mlc_llm.weights.memory import huge_empty
from mlc_workers.runner.final_norm import FinalNorm
from mlc_workers.runner.library import Library, open_library
from mlc_workers.runner.pool import new_pool
from mlc_workers.runner.runner import Runner
from mlc_workers.scheduler.plan import Plan, Span

DEFAULT = ["decode:128", "decode:2048", "decode:128:4", "decode:128:8", "decode:128:16"]
DEFAULT += ["prefill:128", "prefill:512"]
CONTEXT, ROWS = 2080, 16
PEAK_ROUNDS = 1 << 17
"""A few milliseconds of byte products."""

HEAD_ROWS = 31999
"""A matrix with more rows than this is the vocabulary: it sees only the rows that are sampled."""

_LINEAR = re.compile(r"linear_[a-z_]+_(\d+)_(\d+)$")


class Regime(NamedTuple):
    """A step: `batch` sequences of `length` new tokens each, after `context` earlier ones."""

    name: str
    batch: int
    length: int
    context: int

    @property
    def tokens(self) -> int:
        return self.batch * self.length


def regime(text: str) -> Regime:
    """Parse the command line's name of a regime."""
    kind, first, *more = text.split(":")
    other = int(more[0]) if more else None
    if kind == "decode":
        return Regime(text, other or 1, 1, int(first))
    return Regime(text, 1, int(first), other or 0)


class Model:
    """A compiled model over random weights and a pool in which every sequence has its own pages."""

    def __init__(self, arch: Architecture, scheme: Scheme) -> None:
        spec = LibrarySpec(arch, scheme.name, detect().value)
        compiled = ensure_library(spec, lambda _stage, _message, _done: None)
        self.library: Library = open_library(compiled)
        per_row = -(-CONTEXT // PAGE_SIZE)
        table = huge_empty((ROWS, per_row), np.int32).view(np.int32)
        table[:] = np.random.default_rng(1).permutation(table.size).reshape(table.shape)
        pool = new_pool(arch, scheme, ROWS * per_row)
        pool[...] = 0x3C24 if pool.dtype == np.uint16 else 0.01  # bfloat16 travels as its bits
        rope = huge_empty((CONTEXT, arch.head_dim), np.float32).view(np.float32)
        rope[:] = rope_table(arch, CONTEXT)
        weights = [random_tensor(s.shape, s.dtype) for s in tensor_specs(arch, scheme)]
        norm = FinalNorm(arch, scheme, weights)
        self.runner = Runner(self.library, weights, pool, rope, table, arch.vocab_size, norm)

    def step(self, wanted: Regime) -> Callable[[], None]:
        """A call that runs the step."""
        ids = np.random.default_rng(2).integers(0, 100, wanted.length).tolist()
        spans = [Span(row, wanted.context, ids, True) for row in range(wanted.batch)]
        plan = Plan(tuple(spans))
        return lambda: (self.runner.run(plan), None)[1]


def random_tensor(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Weights that keep activations finite; the same block of random bits over and over."""
    out = huge_empty(shape, dtype)
    flat = out.reshape(-1)
    if len(shape) == 1:
        flat[:] = 1
    elif dtype == "int32":
        block = np.random.default_rng(0).integers(-(1 << 31), 1 << 31, 1 << 16, dtype=np.int64)
        flat[:] = np.resize(block.astype(np.int32), flat.size)
    else:
        flat[:] = 0.005
    return out


class Ceilings(NamedTuple):
    """What the hardware did between the steps: medians of bytes and multiply-adds a second."""

    read: float
    int8: float | None


def int8_peak() -> Callable[[], float] | None:
    """A call that multiplies bytes in registers and returns multiply-adds per second."""
    if TRAITS[detect()].lanes < 16:
        return None
    vnni = tvm.compile(vnni_kernel(PEAK_ROUNDS), target=target(detect()))["vnni"]
    x = tvm.runtime.empty((64,), "int32")
    y = tvm.runtime.empty((THREADS * 192,), "int32")

    def measure() -> float:
        started = time.perf_counter()
        vnni(x, y)
        return THREADS * PEAK_ROUNDS * 12 * 64 / (time.perf_counter() - started)

    return measure


def read_ceiling() -> Callable[[], float]:
    """A call that reads a large array once and returns bytes per second."""
    data = huge_empty((READ_BYTES // 4,), "int32")
    data[:] = 1
    out = tvm.runtime.empty((READ_BYTES // 4 // CHUNK * 16,), "int32")
    read = tvm.compile(read_kernel(), target=target(detect()))["read"]
    source = tvm.runtime.from_dlpack(data)

    def measure() -> float:
        started = time.perf_counter()
        read(source, out)
        return READ_BYTES / (time.perf_counter() - started)

    return measure


class Watch:
    """Seconds of every kernel of the steps it watches, by name."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.calls: dict[str, int] = {}
        self._began = 0.0

    def __call__(self, function: Any, name: str, before: bool, result: Any, *_: Any) -> int:
        now = time.perf_counter()
        if name.startswith("vm."):  # the machine's own: being watched takes longer than they do
            return 0
        if before:
            self._began = time.perf_counter()
            return 0
        self.steps[-1][name] += now - self._began
        self.calls[name] = self.calls.get(name, 0) + 1
        return 0

    def next_step(self) -> None:
        self.steps.append(defaultdict(float))
        self.calls = {}

    def medians(self) -> dict[str, float]:
        return {
            name: statistics.median(step[name] for step in self.steps) for name in self.steps[-1]
        }


class Hardware:
    """Reads the ceilings whenever it is asked to."""

    def __init__(self) -> None:
        self._read = read_ceiling()
        self._peak = int8_peak()
        self._reads: list[float] = []
        self._peaks: list[float] = []

    def sample(self) -> None:
        self._reads.append(self._read())
        if self._peak is not None:
            self._peaks.append(self._peak())

    def take(self) -> Ceilings:
        """The medians since the last call."""
        found = Ceilings(
            statistics.median(self._reads),
            statistics.median(self._peaks) if self._peaks else None,
        )
        self._reads, self._peaks = [], []
        return found


def measure(model: Model, wanted: Regime, hardware: Hardware, seconds: float) -> None:
    """Time whole steps between readings of the ceilings, then watch a few, and print."""
    run = model.step(wanted)
    run()
    whole = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(whole) < 5:
        hardware.sample()
        for _ in range(4 if wanted.tokens < 64 else 1):
            started = time.perf_counter()
            run()
            whole.append(time.perf_counter() - started)
    watch = Watch()
    model.library.watch(watch)
    for _ in range(9 if wanted.tokens < 64 else 3):
        hardware.sample()
        watch.next_step()
        run()
    model.library.watch(None)
    show(wanted, whole, hardware.take(), watch)


def show(wanted: Regime, times: list[float], ceilings: Ceilings, watch: Watch) -> None:
    """Print one regime."""
    kernels = watch.medians()
    whole = statistics.median(times)
    peak = "" if ceilings.int8 is None else f", int8 peak {ceilings.int8 / 1e9:.0f} GMAC/s"
    print(
        f"{wanted.name}: {wanted.tokens / whole:.1f} tok/s, {whole * 1e3:.2f} ms "
        f"(best {min(times) * 1e3:.2f}), read ceiling {ceilings.read / 1e9:.1f} GB/s{peak}"
    )
    for name, spent in sorted(kernels.items(), key=lambda item: -item[1]):
        line = f"  {name:34} x{watch.calls[name]:3} {spent * 1e3:8.3f} ms {spent / whole:6.1%}"
        if shape := _LINEAR.match(name):
            work = watch.calls[name] * int(shape[1]) * int(shape[2])
            line += f"  {work * 4.5 / 8 / spent / ceilings.read:5.0%} of read"
            if ceilings.int8 is not None:
                rows = wanted.batch if int(shape[1]) > HEAD_ROWS else wanted.tokens
                line += f" {work * rows / spent / ceilings.int8:5.0%} of int8"
        print(line)
    rest = whole - math.fsum(kernels.values())
    print(f"  {'between':34}      {rest * 1e3:8.3f} ms {rest / whole:6.1%}")
    sys.stdout.flush()


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description="where the time of a step goes")
    parser.add_argument("model", type=Path)
    parser.add_argument("--quantization", default="q4f16_1")
    parser.add_argument("--regimes", nargs="*", default=DEFAULT)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--spin", default=os.environ.get("TVM_THREAD_POOL_SPIN_COUNT"))
    args = parser.parse_args()
    if args.spin is not None:
        os.environ["TVM_THREAD_POOL_SPIN_COUNT"] = args.spin
    arch = open_folder(args.model).architecture
    model = Model(arch, scheme_by_name(args.quantization))
    hardware = Hardware()
    for text in args.regimes:
        measure(model, regime(text), hardware, args.seconds)


if __name__ == "__main__":
    main()
