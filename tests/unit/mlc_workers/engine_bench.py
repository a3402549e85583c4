"""An engine with a fake runner, a fake sampler and clients in memory, turned by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import msgspec
import numpy as np

from mlc_llm.ipc.channel import ChannelBroken
from mlc_llm.ipc.heartbeat import HEARTBEAT_BYTES, HeartbeatReader, HeartbeatWriter
from mlc_llm.ipc.wakeup import Wakeup
from mlc_llm.protocol.codec import decode_from_engine, encode
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import (
    Delta,
    Failed,
    Finished,
    FinishReason,
    FromEngine,
    Reply,
    Stats,
    StepOutput,
    Submit,
    ToEngine,
)
from mlc_llm.tracing.recorder import Recorder
from mlc_workers.cache.kv import KVCache
from mlc_workers.cache.pages import pages_for
from mlc_workers.engine.inbox import Checks
from mlc_workers.engine.loop import Engine
from mlc_workers.guided.held import Grammars
from mlc_workers.scheduler.limits import Limits
from mlc_workers.scheduler.scheduler import Scheduler
from support.fake_runner import FakeRunner
from support.fake_sampler import FakeSampler, FakeTexts

VOCAB = 97
EOS = 96


class FakeEnd:
    """Both ends of a channel: the engine's methods, and what a client sees."""

    def __init__(self) -> None:
        self.to_engine: list[ToEngine] = []
        self.is_full = False
        self.is_broken = False
        self.is_closed = False
        self.frames: list[FromEngine] = []
        memory = memoryview(bytearray(HEARTBEAT_BYTES))
        self.heartbeat = HeartbeatWriter(memory)
        self.reader = HeartbeatReader(memory)
        self.wakeup = Wakeup(-1, -1)

    def recv(self) -> list[ToEngine]:
        if self.is_broken:
            raise ChannelBroken("nonsense")
        messages, self.to_engine = self.to_engine, []
        return messages

    def send(self, message: FromEngine) -> bool:
        if not self.is_full:
            self.frames.append(decode_from_engine(encode(message)))
        return not self.is_full

    def flush(self) -> bool:
        return not self.is_full

    def close(self) -> None:
        self.is_closed = True

    def submit(self, request_id: str, prompt: Sequence[int], **settings: object) -> None:
        generation = msgspec.structs.replace(GenerationConfig(), **settings)
        raw = np.asarray(prompt, "<i4").tobytes()
        self.to_engine.append(Submit(request_id, raw, generation))

    def outputs(self) -> list[StepOutput]:
        return [frame for frame in self.frames if isinstance(frame, StepOutput)]

    def deltas(self, request_id: str, index: int = 0) -> list[Delta]:
        deltas = [delta for output in self.outputs() for delta in output.deltas]
        return [d for d in deltas if (d.request_id, d.index) == (request_id, index)]

    def text(self, request_id: str, index: int = 0) -> str:
        return "".join(delta.text for delta in self.deltas(request_id, index))

    def reasons(self, request_id: str, index: int = 0) -> list[FinishReason]:
        deltas = self.deltas(request_id, index)
        return [d.finish_reason for d in deltas if d.finish_reason is not None]

    def finished(self, request_id: str) -> list[Finished]:
        ends = [end for output in self.outputs() for end in output.finished]
        return [end for end in ends if end.request_id == request_id]

    def failed(self, request_id: str) -> list[Failed]:
        ends = [end for output in self.outputs() for end in output.failed]
        return [end for end in ends if end.request_id == request_id]

    def replies(self) -> list[Reply]:
        return [frame for frame in self.frames if isinstance(frame, Reply)]


class EngineBench:
    """An engine of round sizes and its clients."""

    def __init__(
        self,
        *,
        num_clients: int = 1,
        recorder: Recorder | None = None,
        clock: Callable[[], float] | None = None,
        grammars: Grammars | None = None,
        **sizes: object,
    ) -> None:
        default = {
            "num_pages": 32,
            "max_num_sequence": 4,
            "max_single_sequence_length": 512,
            "prefill_chunk_size": 32,
        }
        self.limits = msgspec.convert({**default, **sizes}, Limits)
        self.kv = KVCache(
            self.limits.num_pages, self.limits.max_num_sequence, pages_for(self.limits.max_length)
        )
        self.scheduler = Scheduler(self.limits, self.kv)
        self.runner = FakeRunner(self.kv.table.array, self.limits.num_pages, VOCAB)
        self.sampler = FakeSampler()
        self.texts = FakeTexts(VOCAB)
        self.ends = [FakeEnd() for _ in range(num_clients)]
        ticks = count(1)
        self.engine = Engine(
            self.ends,
            self.scheduler,
            self.runner,
            self.sampler,
            self.texts,
            Checks(VOCAB, frozenset({EOS}), self.sampler.check),
            recorder,
            clock or (lambda: float(next(ticks))),
            grammars,
        )

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.engine.turn()
            self.scheduler.audit()

    def finish(self) -> None:
        """Turn until there is no work."""
        while self.engine.turn():
            self.scheduler.audit()

    def stats(self) -> Stats:
        return self.engine.counters.stats(self.scheduler.state)

    def assert_all_free(self) -> None:
        self.scheduler.audit()
        assert self.kv.num_available == self.limits.num_pages
        assert self.kv.table.num_free == self.limits.max_num_sequence
