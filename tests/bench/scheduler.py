"""What a step costs beside the device, as a table.

    PYTHONPATH=pkg:workers:tests python tests/bench/scheduler.py

plan + settle is the scheduler alone; turn is a whole turn of the engine with a runner that does
nothing, a sampler that returns one token, and a channel that only encodes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from statistics import median

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlc_llm.ipc.heartbeat import HEARTBEAT_BYTES, HeartbeatWriter
from mlc_llm.ipc.wakeup import Wakeup
from mlc_llm.protocol.codec import encode
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import FromEngine, Submit, ToEngine
from mlc_llm.tracing.recorder import Recorder
from mlc_workers.cache.kv import KVCache
from mlc_workers.engine.inbox import Checks
from mlc_workers.engine.loop import Engine
from mlc_workers.request import Request, RequestKey
from mlc_workers.sampling.sampler import Pick
from mlc_workers.scheduler.limits import Limits
from mlc_workers.scheduler.plan import Plan
from mlc_workers.scheduler.scheduler import Scheduler
from support.fake_sampler import FakeTexts

VOCAB = 1000
STEPS = 300
PROMPT = 100


class NoEnd:
    """A channel that nobody reads."""

    def __init__(self) -> None:
        self.to_engine: list[ToEngine] = []
        self.heartbeat = HeartbeatWriter(memoryview(bytearray(HEARTBEAT_BYTES)))
        self.wakeup = Wakeup(-1, -1)

    def recv(self) -> list[ToEngine]:
        messages, self.to_engine = self.to_engine, []
        return messages

    def send(self, message: FromEngine) -> bool:
        encode(message)
        return True

    def flush(self) -> bool:
        return True

    def close(self) -> None:
        pass


class NoRunner:
    """Logits without a device."""

    def __init__(self) -> None:
        self.logits = np.zeros((1024, VOCAB), np.float32)

    def run(self, plan: Plan) -> NDArray[np.float32]:
        return self.logits[: len(plan.spans)]

    def hidden(self) -> NDArray[np.float64]:
        return np.zeros((0, 1))


class NoSampler:
    """One token for everybody."""

    def check(self, generation: GenerationConfig) -> str | None:
        return None

    def open(self, generation: GenerationConfig, index: int) -> object:
        return None

    def observe(self, memory: object, token_id: int) -> None:
        pass

    def sample(
        self, logits: NDArray[np.float32], memories: Sequence[object], masks: object = None
    ) -> Sequence[Pick | Exception]:
        return [Pick(7)] * len(memories)


def build(num: int) -> Scheduler:
    limits = Limits(
        num_pages=num * 64,
        max_num_sequence=num,
        max_single_sequence_length=1024,
        prefill_chunk_size=max(2048, num * PROMPT),
    )
    return Scheduler(limits, KVCache(limits.num_pages, num, 64))


def timed(function: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(STEPS):
        began = time.perf_counter()
        function()
        times.append((time.perf_counter() - began) * 1e6)
    return sorted(times)


def plan_and_settle(num: int) -> list[float]:
    scheduler = build(num)
    for serial in range(num):
        prompt = [(serial * 31 + i) % VOCAB for i in range(PROMPT + serial % 16)]
        key = RequestKey(0, str(serial))
        scheduler.submit(Request(key, prompt, GenerationConfig(), serial=serial))

    def step() -> None:
        plan = scheduler.plan()
        assert plan is not None
        scheduler.settle(plan, [7] * len(plan.sampled))

    while scheduler.state.num_decoding < num:
        step()
    return timed(step)


def turns(num: int, recorder: Recorder | None) -> list[float]:
    scheduler = build(num)
    end = NoEnd()
    sampler = NoSampler()
    checks = Checks(VOCAB, frozenset(), sampler.check)
    engine = Engine([end], scheduler, NoRunner(), sampler, FakeTexts(VOCAB), checks, recorder)
    for serial in range(num):
        prompt = np.arange(PROMPT + serial % 16, dtype="<i4") * (serial + 1) % VOCAB
        end.to_engine.append(Submit(str(serial), prompt.tobytes(), GenerationConfig()))
    while scheduler.state.num_decoding < num:
        if not engine.turn():
            raise SystemExit("the engine refused its requests")
    return timed(engine.turn)


def main() -> None:
    print(f"{'sequences':>9}  {'what':<22} {'median us':>9} {'p99 us':>9} {'us/seq':>7}")
    for num in (1, 16, 64, 256):
        for name, times in (
            ("plan + settle", plan_and_settle(num)),
            ("turn", turns(num, None)),
            ("turn, with tracing", turns(num, Recorder())),
        ):
            middle, tail = median(times), times[len(times) * 99 // 100]
            print(f"{num:>9}  {name:<22} {middle:>9.1f} {tail:>9.1f} {middle / num:>7.2f}")
    print(msgspec.json.encode({"steps": STEPS, "python": sys.version.split()[0]}).decode())


if __name__ == "__main__":
    main()
