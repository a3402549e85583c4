"""The engine process, driven by the real client over real rings; only the model is a toy."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest
import pytest_asyncio

from mlc_llm.errors import BadModel, EngineFault, EngineUnavailable
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import FinishReason, Progress
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.serve.client.client import EngineClient
from mlc_llm.serve.client.stream import Stream
from support.clients import ask, text_of
from support.fake_runner import continuation
from support.fake_sampler import FakeTexts
from support.toy_engine import VOCAB, toy_engine

ToyEngine = Callable[..., Awaitable[EngineClient]]


@pytest_asyncio.fixture()
async def engine() -> AsyncIterator[ToyEngine]:
    """Starts toy engines and closes them after the test."""
    clients: list[EngineClient] = []

    async def started(**settings: object) -> EngineClient:
        spec = msgspec.convert({"model": "toy", **settings}, EngineSpec)
        clients.append(await EngineClient.start(spec, command=toy_engine()))
        return clients[-1]

    yield started
    for client in clients:
        await client.close()


def expected(tokens: tuple[int, ...], num_tokens: int) -> str:
    return FakeTexts.text_of(continuation(tokens, num_tokens, VOCAB))


async def test_many_requests_of_all_sizes_get_the_answers_they_get_alone(engine: ToyEngine) -> None:
    client = await engine()
    prompts = [tuple(range(n % 7, n % 7 + 1 + n * 3)) for n in range(30)]
    streams = [
        client.open([ask(f"r{n}", prompt, GenerationConfig(max_tokens=40))])
        for n, prompt in enumerate(prompts)
    ]
    texts = await asyncio.gather(*map(text_of, streams))
    assert texts == [expected(prompt, 40) for prompt in prompts]
    stats = await client.stats()
    assert stats.kv_pages_free == stats.kv_pages_total
    assert stats.requests_finished["length"] == 30


async def test_aborts_in_every_phase_leave_nothing_behind(engine: ToyEngine) -> None:
    client = await engine(max_num_sequence=2)
    streams = [
        client.open([ask(f"r{n}", tuple(range(90)), GenerationConfig(n=2))]) for n in range(20)
    ]
    await anext(streams[0])
    for n in range(20):
        client.abort_now(f"r{n}")
    reasons = await asyncio.gather(*map(reasons_of, streams))
    assert {reason for of_one in reasons for reason in of_one} == {FinishReason.ABORT}
    stats = await client.stats()
    assert (stats.num_running, stats.num_waiting) == (0, 0)
    assert stats.kv_pages_free == stats.kv_pages_total


async def reasons_of(stream: Stream) -> list[FinishReason]:
    deltas = [delta async for update in stream for delta in update.deltas]
    return [delta.finish_reason for delta in deltas if delta.finish_reason is not None]


async def test_start_up_tells_its_progress_and_its_decisions() -> None:
    heard: list[Progress] = []
    spec = EngineSpec(model="toy")
    client = await EngineClient.start(spec, command=toy_engine(), on_progress=heard.append)
    assert [progress.stage for progress in heard] == ["load"]
    assert client.ready.decisions == ("a toy",)
    await client.close()


async def test_a_model_that_cannot_be_used_is_one_clear_line(engine: ToyEngine) -> None:
    with pytest.raises(BadModel, match=r"^the folder is empty; use another one$"):
        await engine(model="fails")


async def test_an_unexpected_failure_at_start_is_one_line_too(engine: ToyEngine) -> None:
    with pytest.raises(EngineFault, match="ZeroDivisionError: nobody expected this"):
        await engine(model="breaks")


async def test_sigint_is_the_clients_affair_and_sigterm_ends_the_engine(engine: ToyEngine) -> None:
    client = await engine()
    stream = client.open([ask("r", (1, 2, 3))])
    os.kill(client.ready.pid, signal.SIGINT)
    await anext(stream)
    os.kill(client.ready.pid, signal.SIGTERM)
    with pytest.raises(EngineUnavailable):  # or EngineDied, when the words came too late
        await text_of(stream)


async def test_the_trace_is_there_when_it_was_asked_for(engine: ToyEngine) -> None:
    client = await engine(enable_tracing=True)
    await text_of(client.open([ask("r", (1, 2), GenerationConfig(max_tokens=3))]))
    names = [event["name"] for event in msgspec.json.decode(await client.trace())]
    assert "request added to engine (0)" in names
    assert "decode (1)" in names
