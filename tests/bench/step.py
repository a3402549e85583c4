"""Where the time of one step goes: whole steps, and each kernel in them, against the hardware.

Runs the compiled `step` on random weights of a model's shapes in this process, without an engine.
The read ceiling is measured between the steps, so a machine whose bandwidth drifts still gives
shares that can be compared. `between` is what the whole step takes beyond its kernels.

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
from ceiling import CHUNK, READ_BYTES, read_kernel
from numpy.typing import NDArray

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_llm.compiler.artifact import LibrarySpec
from mlc_llm.compiler.jit import ensure_library
from mlc_llm.kernels.cpu.level import detect
from mlc_llm.kernels.cpu.target import target
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.folder import open_folder
from mlc_llm.models.parameters import tensor_specs
from mlc_llm.models.rope import rope_table
from mlc_llm.quantization.scheme import Scheme, scheme_by_name
from mlc_llm.weights.memory import huge_empty
from mlc_workers.runner.library import Library, open_library
from mlc_workers.runner.pool import new_pool
from mlc_workers.runner.runner import Runner
from mlc_workers.scheduler.plan import Plan, Span

DEFAULT = ["decode:128", "decode:2048", "decode:128:4", "decode:128:8", "decode:128:16"]
DEFAULT += ["prefill:128", "prefill:512"]
CONTEXT, ROWS = 2080, 16
_LINEAR = re.compile(r"linear_\w+?_(\d+)_(\d+)$")


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
        pool[...] = 0.01
        rope = huge_empty((CONTEXT, arch.head_dim), np.float32).view(np.float32)
        rope[:] = rope_table(arch, CONTEXT)
        weights = [random_tensor(s.shape, s.dtype) for s in tensor_specs(arch, scheme)]
        self.runner = Runner(self.library, weights, pool, rope, table, arch.vocab_size)

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


def measure(model: Model, wanted: Regime, ceiling: Callable[[], float], seconds: float) -> None:
    """Time whole steps between readings of the ceiling, then watch a few, and print."""
    run = model.step(wanted)
    run()
    whole, reads = [], []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(whole) < 5:
        reads.append(ceiling())
        for _ in range(4 if wanted.tokens < 64 else 1):
            started = time.perf_counter()
            run()
            whole.append(time.perf_counter() - started)
    watch = Watch()
    model.library.watch(watch)
    for _ in range(9 if wanted.tokens < 64 else 3):
        watch.next_step()
        run()
    model.library.watch(None)
    show(wanted, statistics.median(whole), min(whole), statistics.median(reads), watch)


def show(wanted: Regime, whole: float, best: float, read: float, watch: Watch) -> None:
    """Print one regime."""
    kernels = watch.medians()
    print(
        f"{wanted.name}: {wanted.tokens / whole:.1f} tok/s, {whole * 1e3:.2f} ms "
        f"(best {best * 1e3:.2f}), read ceiling {read / 1e9:.1f} GB/s"
    )
    for name, spent in sorted(kernels.items(), key=lambda item: -item[1]):
        if spent / whole < 0.003 and not _LINEAR.match(name):
            continue
        calls = watch.calls[name]
        line = f"  {name:34} x{calls:3} {spent * 1e3:8.3f} ms {spent / whole:6.1%}"
        if found := _LINEAR.match(name):
            rows, cols = int(found[1]), int(found[2])
            bytes_read = calls * rows * cols * 4.5 / 8
            rate = calls * rows * cols * wanted.tokens / spent / 1e9
            line += f"  {bytes_read / spent / read:5.0%} of read"
            if wanted.tokens > 1 and "128256" not in name:
                line += f" {rate:6.0f} GMAC/s"
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
    ceiling = read_ceiling()
    for text in args.regimes:
        measure(model, regime(text), ceiling, args.seconds)


if __name__ == "__main__":
    main()
