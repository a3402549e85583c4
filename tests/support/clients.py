"""Engine clients for tests: started on the fake engine, then closed and searched for leaks."""

from __future__ import annotations

import gc
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest_asyncio

from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import Submit
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.serve.client.client import EngineClient
from mlc_llm.serve.client.state import EngineState
from mlc_llm.serve.client.stream import Stream
from support.fake_engine import fake_engine

SPEC = EngineSpec(model="a-model")
ENDLESS = GenerationConfig(ignore_eos=True)

Start = Callable[..., Awaitable[EngineClient]]


@pytest_asyncio.fixture()
async def start() -> AsyncIterator[Start]:
    """Starts clients and, after the test, closes them and looks for leaks."""
    gc.collect()  # what earlier tests left to the collector must not close while this one counts
    fds, shared = len(os.listdir("/proc/self/fd")), set(os.listdir("/dev/shm"))
    clients: list[EngineClient] = []

    async def started(*flags: str, restart: bool = False) -> EngineClient:
        client = await EngineClient.start(SPEC, command=fake_engine(*flags), restart=restart)
        clients.append(client)
        return client

    yield started
    for client in clients:
        await client.close()
        assert client.state is EngineState.STOPPED
    assert len(os.listdir("/proc/self/fd")) == fds
    assert set(os.listdir("/dev/shm")) <= shared


def prompt(*tokens: int) -> bytes:
    return struct.pack(f"<{len(tokens)}i", *tokens)


def ask(request_id: str, tokens: tuple[int, ...], config: GenerationConfig | None = None) -> Submit:
    return Submit(request_id, prompt(*tokens), config or GenerationConfig())


async def text_of(stream: Stream) -> str:
    return "".join([delta.text async for update in stream for delta in update.deltas])
