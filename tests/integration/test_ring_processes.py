"""A channel between two real processes: nothing is lost, nobody sleeps for ever."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlc_llm.ipc.channel import Capacities, ClientEnd
from mlc_llm.ipc.launch import EXIT_ORPHANED, Child, python_path, start_engine
from mlc_llm.ipc.wakeup import wait
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import Progress, Query, Ready, Reply, Shutdown, Submit
from mlc_llm.protocol.spec import EngineSpec
from support.fake_engine import fake_engine

PATIENCE_S = 30.0


def end(child: Child) -> int:
    child.lifeline.close()
    os.close(child.stderr)
    return child.process.wait(PATIENCE_S)


@pytest.mark.parametrize("capacity", [64, 1000, 1 << 20])
def test_frames_of_all_sizes_survive_a_round_trip_through_rings_of_all_sizes(capacity: int) -> None:
    client = ClientEnd(Capacities(commands=capacity, aborts=64, output=capacity))
    child = start_engine(EngineSpec(model="m"), [client.handle], fake_engine("--echo-queries"))
    source = random.Random(capacity)
    questions = ["q" * source.choice([1, 10, 100, 1000, 20_000]) for _ in range(200)]
    client.send([Query(number, text) for number, text in enumerate(questions)])
    answers: list[str] = []
    while len(answers) < len(questions):
        assert wait([client.wakeup], PATIENCE_S), "a wake-up was lost"
        for message in client.recv():
            match message:
                case Reply(query_id=query_id, body=body):
                    assert query_id == len(answers)
                    answers.append(body.decode())
                case _:
                    assert isinstance(message, Progress | Ready)
    assert answers == questions
    client.send([Shutdown()])
    assert child.process.wait(PATIENCE_S) == 0
    end(child)
    client.close()


def test_the_engine_exits_when_its_client_closes_the_lifeline() -> None:
    client = ClientEnd()
    child = start_engine(EngineSpec(model="m"), [client.handle], fake_engine())
    wait([client.wakeup], PATIENCE_S)
    assert end(child) == EXIT_ORPHANED
    client.close()


CLIENT = """
import asyncio, struct, sys, time
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import Submit
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.serve.client.client import EngineClient
from support.fake_engine import fake_engine

async def main():
    client = await EngineClient.start(EngineSpec(model="m"), command=fake_engine())
    stream = client.open([Submit("r", b"abcd", GenerationConfig(ignore_eos=True))])
    await anext(stream)
    print(client.ready.pid, flush=True)
    async for _ in stream:
        pass

asyncio.run(main())
"""


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_client_takes_its_engine_with_it(tmp_path: Path, death: signal.Signals) -> None:
    before = set(os.listdir("/dev/shm"))
    script = tmp_path / "client.py"
    script.write_text(CLIENT)  # without a main guard: the engine must not run it again
    client = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": python_path()},
    )
    assert client.stdout is not None
    with client.stdout as stdout:
        engine = os.pidfd_open(int(stdout.readline()))
    client.send_signal(death)
    assert client.wait(PATIENCE_S) == -death
    assert wait([], PATIENCE_S, [engine]), "the engine lives on without its client"
    os.close(engine)
    assert set(os.listdir("/dev/shm")) <= before


def test_several_clients_share_one_engine() -> None:
    ends = [ClientEnd(), ClientEnd()]
    child = start_engine(EngineSpec(model="m"), [e.handle for e in ends], fake_engine())
    for number, client in enumerate(ends):
        client.send([Submit("same name", bytes([number, 0, 0, 0]), GenerationConfig())])
    for number, client in enumerate(ends):
        text = ""
        while not text:
            assert wait([client.wakeup], PATIENCE_S)
            for message in client.recv():
                text += "".join(delta.text for delta in getattr(message, "deltas", []))
        assert text == f" {number}"
        client.send([Shutdown()])
    assert child.process.wait(PATIENCE_S) == 0
    end(child)
    for client in ends:
        client.close()
