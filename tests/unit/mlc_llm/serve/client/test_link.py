"""The link to an engine that talks without end, played by the test itself."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from mlc_llm.ipc import channel
from mlc_llm.ipc.channel import EngineEnd, Handle
from mlc_llm.ipc.launch import Child
from mlc_llm.protocol.messages import Delta, FromEngine, StepOutput
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.serve.client import link as link_module
from mlc_llm.serve.client.link import EngineLink

OUTPUT = StepOutput([Delta("r", 0, "x" * 100, 1)])
READ_BYTES = 1000
MOST_AT_ONCE = READ_BYTES // 100
MANY = 20 * MOST_AT_ONCE


class Exited(subprocess.Popen[bytes]):
    """A process that has ended."""

    def __init__(self) -> None:
        self.returncode = 0

    def __del__(self, *args: Any) -> None:
        pass


class Engine:
    """The other end of everything that the link holds."""

    def __init__(self) -> None:
        self.lifeline, self.clients_lifeline = socket.socketpair()
        self.clients_stderr, self.stderr = os.pipe()
        os.set_blocking(self.clients_stderr, False)
        os.set_blocking(self.stderr, False)

    def start(self, spec: object, handles: Sequence[Handle], command: object) -> Child:
        """Stands in for `start_engine`."""
        (handle,) = handles
        fds = (handle.memory, handle.to_engine[0], handle.to_client[0])
        memory, to_engine, to_client = map(os.dup, fds)
        self.end = EngineEnd(Handle(memory, (to_engine,) * 2, (to_client,) * 2))
        return Child(Exited(), self.clients_lifeline, self.clients_stderr)

    def die(self) -> None:
        """Close what a dead process does not hold."""
        self.end.close()
        self.lifeline.close()
        os.close(self.stderr)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    played = Engine()
    monkeypatch.setattr(link_module, "start_engine", played.start)
    monkeypatch.setattr(channel, "READ_BYTES", READ_BYTES)
    yield played
    for end in (played.lifeline, played.clients_lifeline):
        end.close()


async def test_an_endless_stream_does_not_keep_the_loop_from_its_other_work(
    engine: Engine,
) -> None:
    since_turn = most = turns = 0

    def hear(message: FromEngine) -> None:
        nonlocal since_turn, most
        since_turn += 1
        most = max(most, since_turn)
        engine.end.send(OUTPUT)  # one for each that is taken: the ring never becomes empty

    gone = asyncio.Event()
    link = EngineLink(EngineSpec(model="m"), None, hear, gone.set)
    for _ in range(MANY):
        assert engine.end.send(OUTPUT)
    while turns < 50 or since_turn == 0:
        turns += 1
        since_turn = 0
        await asyncio.sleep(0)
    assert 0 < most <= MOST_AT_ONCE
    engine.die()
    await gone.wait()
    await link.reaped()


async def test_what_a_dead_engine_said_last_is_heard_in_pieces_before_it_is_gone(
    engine: Engine,
) -> None:
    heard: list[FromEngine] = []
    gone = asyncio.Event()
    link = EngineLink(EngineSpec(model="m"), None, heard.append, gone.set)
    for _ in range(MANY):
        assert engine.end.send(OUTPUT)
    engine.die()
    pieces = [0]
    while not gone.is_set():
        pieces.append(len(heard))
        await asyncio.sleep(0)
    pieces.append(len(heard))
    assert len(heard) == MANY
    assert max(b - a for a, b in itertools.pairwise(pieces)) <= 2 * MOST_AT_ONCE
    await link.reaped()


async def test_endless_complaints_do_not_keep_the_loop_from_its_other_work(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = 0

    def write(fd: int, text: bytes) -> int:
        nonlocal copied
        copied += 1
        real_write(engine.stderr, b"again\n")  # the pipe never becomes empty
        return len(text)

    gone = asyncio.Event()
    link = EngineLink(EngineSpec(model="m"), None, lambda message: None, gone.set)
    real_write = os.write
    real_write(engine.stderr, b"once\n")
    monkeypatch.setattr(link_module, "_STDERR", -1)
    monkeypatch.setattr(
        os, "write", lambda fd, text: write(fd, text) if fd == -1 else real_write(fd, text)
    )
    while copied < 10:
        before = copied
        await asyncio.sleep(0)
        assert copied <= before + 1
    monkeypatch.undo()
    engine.die()
    await gone.wait()
    await link.reaped()
    assert link.epitaph.endswith("again")
