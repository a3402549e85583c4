"""What a parallel region costs: launched by itself, or ended by a barrier inside one launch.

Prints microseconds of a region that does nothing, and of one in which every thread writes 4 KB and
the next region's threads read all of it. The read ceiling beside them tells which of its two speeds
the machine has.

    PYTHONPATH=pkg:workers:api:tests python tests/bench/regions.py [rounds]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import tvm
import tvm.script.ir_builder.tirx as T
from ceiling import THREADS
from step import read_ceiling
from tvm.ir import Expr
from tvm.tirx import PrimFunc, Var

from mlc_llm.kernels.cpu.level import detect
from mlc_llm.kernels.cpu.target import target
from mlc_llm.kernels.cpu.vector import arg, get, prim_func, put, registers, span

REGIONS = 1000
"""Of one call."""
FLOATS = 1024
"""That a thread writes."""
LANES, STREAMS = 16, 4

Region = Callable[[Var, Var, Expr], None]
"""Takes what is read, what is written, and the thread."""


def nothing(_source: Var, result: Var, thread: Expr) -> None:
    """A region of one store."""
    T.buffer_store(result, T.float32(0), [thread, 0])


def exchange(source: Var, result: Var, thread: Expr) -> None:
    """Read what all have written, and write as much as one of them."""
    sums = [registers(LANES) for _ in range(STREAMS)]
    for total in sums:
        put(total, T.broadcast(T.float32(0), LANES), LANES)
    with T.serial(T.int64(FLOATS // LANES // STREAMS)) as i:
        for k, total in enumerate(sums):
            place = span((i * STREAMS + k) * LANES, LANES)
            for other in range(THREADS):
                put(total, get(total, LANES) + source[other, place], LANES)
    value = get(sums[0], LANES)
    for total in sums[1:]:
        value = value + get(total, LANES)
    value = T.bind(value * T.broadcast(T.float32(1e-4), LANES))
    with T.serial(T.int64(FLOATS // LANES)) as i:
        T.buffer_store(result, value, [thread, span(i * LANES, LANES)])


def pragma(name: str) -> Any:
    """A word to TVM's code generator about the loops within."""
    return T.attr(T.int32(0), f"pragma_parallel_{name}", T.int32(1))


def regions(region: Region, barriers: bool) -> PrimFunc:
    """(a f32[threads, FLOATS], b of the same shape): REGIONS regions, forth and back."""

    def emit() -> None:
        a, b = (arg(name, (THREADS, FLOATS), "float32") for name in "ab")
        launch = pragma("launch_point") if barriers else nullcontext()
        with launch, T.serial(T.int64(REGIONS // 2)):
            for source, result in ((a, b), (b, a)):
                end = pragma("barrier_when_finish") if barriers else nullcontext()
                with end, T.parallel(T.int64(THREADS)) as thread:
                    region(source, result, thread)

    return prim_func(emit).with_attr("global_symbol", "regions")


def main() -> None:
    """Measure all kinds in turn, so that they see the same machine."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    kinds = [(region, barriers) for region in (nothing, exchange) for barriers in (False, True)]
    level = target(detect())
    kernels = [tvm.compile(regions(*kind), target=level)["regions"] for kind in kinds]
    a, b = (tvm.runtime.tensor(np.ones((THREADS, FLOATS), np.float32)) for _ in range(2))
    ceiling = read_ceiling()
    ceilings: list[float] = []
    found: list[list[float]] = [[] for _ in kinds]
    for _ in range(rounds):
        ceilings.append(ceiling())
        for kernel, samples in zip(kernels, found, strict=True):
            started = time.perf_counter()
            kernel(a, b)
            samples.append((time.perf_counter() - started) / REGIONS * 1e6)
    print(f"read ceiling {statistics.median(ceilings) / 1e9:.0f} GB/s, {THREADS} threads")
    for (region, barriers), samples in zip(kinds, found, strict=True):
        how = "barrier" if barriers else "launch"
        print(f"{region.__name__:>8}, {how:<7}  {statistics.median(samples):5.2f} us")


if __name__ == "__main__":
    main()
