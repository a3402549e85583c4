"""The real engine process with everything real but the model: a fake runner, sampler and text.

    client = await EngineClient.start(spec, command=toy_engine())

`spec.model` says how start-up goes: "fails" (BadModel), "breaks" (an unexpected exception),
anything else serves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mlc_llm.errors import BadModel
from mlc_llm.protocol.messages import PROTOCOL_VERSION, Ready
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.tracing.recorder import Recorder
from mlc_workers.announce import Announcer
from mlc_workers.cache.kv import KVCache
from mlc_workers.cache.pages import pages_for
from mlc_workers.engine.inbox import Checks, End
from mlc_workers.engine.loop import Engine
from mlc_workers.main import Built, main
from mlc_workers.scheduler.limits import Limits
from mlc_workers.scheduler.scheduler import Scheduler
from support.fake_runner import FakeRunner
from support.fake_sampler import FakeSampler, FakeTexts

VOCAB = 97
EOS = 96
NUM_PAGES = 4096
"""Room for answers that take seconds, however slow the machine makes their reader."""


def toy_engine() -> list[str]:
    """The command that starts it."""
    return [sys.executable, "-P", "-m", "support.toy_engine"]


def build(spec: EngineSpec, ends: Sequence[End], announcer: Announcer) -> Built:
    """As `mlc_workers.startup.build`, in milliseconds."""
    announcer.progress("load", "thinking up a model", 0.5)
    if spec.model == "fails":
        raise BadModel("the folder is empty;\nuse another one")
    if spec.model == "breaks":
        raise ZeroDivisionError("nobody expected this")
    limits = Limits(
        num_pages=NUM_PAGES,
        max_num_sequence=spec.max_num_sequence or 8,
        max_single_sequence_length=NUM_PAGES * 16,
        prefill_chunk_size=64,
    )
    kv = KVCache(limits.num_pages, limits.max_num_sequence, pages_for(limits.max_length))
    sampler = FakeSampler()
    engine = Engine(
        ends,
        Scheduler(limits, kv),
        FakeRunner(kv.table.array, limits.num_pages, VOCAB),
        sampler,
        FakeTexts(VOCAB),
        Checks(VOCAB, frozenset({EOS}), sampler.check),
        Recorder() if spec.enable_tracing else None,
    )
    ready = Ready(
        protocol_version=PROTOCOL_VERSION,
        pid=os.getpid(),
        vocab_size=VOCAB,
        max_num_sequence=limits.max_num_sequence,
        max_total_sequence_length=limits.num_pages * 16,
        max_single_sequence_length=limits.max_length,
        prefill_chunk_size=limits.prefill_chunk_size,
        decisions=("a toy",),
    )
    return Built(engine, ready)


if __name__ == "__main__":
    sys.exit(main(sys.argv, sys.stdin.buffer, "support.toy_engine:build"))
