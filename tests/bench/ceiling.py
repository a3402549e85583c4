"""The hardware's own limits, measured with the same compiler and thread pool as the kernels.

Prints one line of JSON; `engine.py` runs it in a process of its own before and after its work,
since the read bandwidth of a shared machine drifts within minutes.

    PYTHONPATH=pkg:workers:api:tests python tests/bench/ceiling.py [seconds]
"""

from __future__ import annotations

import json
import os
import sys
import time

from mlc_workers.runner.cores import asked_threads, usable_cores

THREADS = asked_threads() or usable_cores()
os.environ.setdefault("TVM_NUM_THREADS", str(THREADS))
os.environ.setdefault("TVM_BIND_THREADS", "0")

import tvm
from tvm.script import tirx as T

from mlc_llm.kernels.cpu.level import TRAITS, detect
from mlc_llm.kernels.cpu.target import target
from mlc_llm.weights.memory import huge_empty

READ_BYTES = 512 << 20
CHUNK = 1 << 16
"""int32 values that one parallel task reads."""
VNNI_ROUNDS = 1 << 20


def read_kernel():  # type: ignore[no-untyped-def]
    """Add up every value of a large array: nothing but loads."""
    tasks = READ_BYTES // 4 // CHUNK

    @T.prim_func
    def read(X: T.Buffer((READ_BYTES // 4,), "int32"), Y: T.Buffer((tasks * 16,), "int32")):
        T.func_attr({"global_symbol": "read", "tirx.noalias": True})
        for task in T.parallel(tasks):
            acc = T.alloc_buffer((64,), "int32", scope="global")
            for u in T.unroll(4):
                acc[T.ramp(u * 16, 1, 16)] = T.broadcast(T.int32(0), 16)
            for i in T.serial(CHUNK // 64):
                for u in T.unroll(4):
                    acc[T.ramp(u * 16, 1, 16)] = (
                        acc[T.ramp(u * 16, 1, 16)]
                        + X[T.ramp(task * CHUNK + i * 64 + u * 16, 1, 16)]
                    )
            Y[T.ramp(task * 16, 1, 16)] = (
                acc[T.ramp(0, 1, 16)]
                + acc[T.ramp(16, 1, 16)]
                + acc[T.ramp(32, 1, 16)]
                + acc[T.ramp(48, 1, 16)]
            )

    return read


def vnni_kernel(rounds: int = VNNI_ROUNDS):  # type: ignore[no-untyped-def]
    """Independent vpdpbusd on registers: the int8 peak."""

    @T.prim_func
    def vnni(X: T.Buffer((64,), "int32"), Y: T.Buffer((THREADS * 192,), "int32")):
        T.func_attr({"global_symbol": "vnni", "tirx.noalias": True})
        for task in T.parallel(THREADS):
            acc = T.alloc_buffer((192,), "int32", scope="global")
            for u in T.unroll(12):
                acc[T.ramp(u * 16, 1, 16)] = T.broadcast(task, 16)
            for _i in T.serial(rounds):
                for u in T.unroll(12):
                    acc[T.ramp(u * 16, 1, 16)] = T.call_llvm_pure_intrin(
                        "int32x16",
                        "llvm.x86.avx512.vpdpbusd.512",
                        acc[T.ramp(u * 16, 1, 16)],
                        T.reinterpret("uint8x64", X[T.ramp(0, 1, 16)]),
                        T.reinterpret("int8x64", X[T.ramp(16, 1, 16)]),
                    )
            for u in T.unroll(12):
                Y[T.ramp(task * 192 + u * 16, 1, 16)] = acc[T.ramp(u * 16, 1, 16)]

    return vnni


def best_rate(call, amount: float, seconds: float) -> float:  # type: ignore[no-untyped-def]
    """`amount` per second of the median call within `seconds`."""
    call()
    samples = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(samples) < 5:
        started = time.perf_counter()
        call()
        samples.append(time.perf_counter() - started)
    return amount / sorted(samples)[len(samples) // 2]


def main() -> None:
    """Measure and print {"read_gb_s": ..., "int8_gmac_s": ... or null}."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    level = detect()
    data = huge_empty((READ_BYTES // 4,), "int32")
    data[:] = 1
    out = tvm.runtime.empty((READ_BYTES // 4 // CHUNK * 16,), "int32")
    read = tvm.compile(read_kernel(), target=target(level))["read"]
    source = tvm.runtime.from_dlpack(data)
    found: dict[str, float | None] = {
        "read_gb_s": best_rate(lambda: read(source, out), READ_BYTES / 1e9, seconds),
        "int8_gmac_s": None,
    }
    if TRAITS[level].lanes == 16:
        vnni = tvm.compile(vnni_kernel(), target=target(level))["vnni"]
        x = tvm.runtime.empty((64,), "int32")
        y = tvm.runtime.empty((THREADS * 192,), "int32")
        macs = THREADS * VNNI_ROUNDS * 12 * 64 / 1e9
        found["int8_gmac_s"] = best_rate(lambda: vnni(x, y), macs, seconds / 2)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
