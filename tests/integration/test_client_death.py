"""Engines that die, hang or talk nonsense: typed errors, a restart, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest
import uvloop

from mlc_llm.errors import EngineDied, EngineUnavailable, Overloaded
from mlc_llm.ipc.wakeup import wait
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.serve.client import client as client_module
from mlc_llm.serve.client.client import EngineClient
from mlc_llm.serve.client.state import EngineState
from mlc_llm.serve.client.stream import Stream, Update
from support.clients import ENDLESS, SPEC, Start, ask, text_of
from support.fake_engine import fake_engine


async def running(client: EngineClient, request_id: str = "r") -> Stream:
    stream = client.open([ask(request_id, (1,), ENDLESS)])
    await anext(stream)
    return stream


async def collect(stream: Stream, updates: list[Update]) -> None:
    async for update in stream:
        updates.append(update)


async def test_a_killed_engine_fails_every_stream_and_query_with_a_typed_error(
    start: Start,
) -> None:
    client = await start()
    streams = [await running(client, f"r{n}") for n in range(3)]
    os.kill(client.ready.pid, signal.SIGSTOP)
    query = asyncio.create_task(client.stats())
    await asyncio.sleep(0)
    os.kill(client.ready.pid, signal.SIGKILL)
    for stream in streams:
        with pytest.raises(EngineDied):
            await text_of(stream)
    with pytest.raises(EngineDied):
        await query
    assert client.state is EngineState.STOPPED
    assert not client.healthy
    with pytest.raises(EngineUnavailable):
        client.open([ask("r", (1,))])


async def test_a_killed_engine_is_restarted_and_serves_again(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    client = await start(restart=True)
    for _ in range(3):
        stream = await running(client)
        pid = client.ready.pid
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineDied):
            await text_of(stream)
        assert client.state is EngineState.RESTARTING
        with pytest.raises(EngineUnavailable, match="restarting"):
            client.open([ask("r", (1,))])
        await client.until_ready()
        assert client.ready.pid != pid
        assert await text_of(client.open([ask("r", (1, 2))])) == " 1 2"
        assert client.healthy
    assert caplog.text.count("serves again") == 3


async def test_a_restarting_client_can_be_closed(start: Start) -> None:
    client = await start(restart=True)
    os.kill(client.ready.pid, signal.SIGKILL)
    stream = client.open([ask("r", (1,), ENDLESS)])
    with pytest.raises(EngineDied):
        await text_of(stream)
    assert client.state is EngineState.RESTARTING
    await client.close()
    with pytest.raises(EngineUnavailable):
        await client.until_ready()


async def test_an_engine_that_dies_by_itself_mid_stream_is_noticed(start: Start) -> None:
    client = await start("--die-after-steps", "100")
    stream = client.open([ask("r", (5,), ENDLESS)])
    engine = os.pidfd_open(client.ready.pid)
    wait([], None, [engine])  # the loop stands still: all the news is still in the ring
    os.close(engine)
    assert client._link is not None
    client._link._end.wakeup.clear()  # only the death is left to be noticed
    updates: list[Update] = []
    with pytest.raises(EngineDied):
        await collect(stream, updates)
    num_tokens = sum(delta.num_tokens for update in updates for delta in update.deltas)
    assert num_tokens == 100, "what the engine wrote before it died was lost"


async def test_an_engine_that_talks_nonsense_is_ended(start: Start) -> None:
    client = await start("--garbage-after-steps", "10")
    with pytest.raises(EngineDied):
        await text_of(client.open([ask("r", (5,), ENDLESS)]))


async def test_an_engine_that_never_comes_back_is_given_up(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_FIRST_DELAY_S", 0.001)
    client = await start("--only-once", str(tmp_path / "started"), restart=True)
    os.kill(client.ready.pid, signal.SIGKILL)
    with pytest.raises(EngineDied, match="could not be restarted 6 times"):
        await client.until_given_up()
    assert client.state is EngineState.STOPPED
    with pytest.raises(EngineUnavailable):
        client.open([ask("r", (1,))])


async def test_a_suspended_engine_is_not_healthy_until_it_goes_on(start: Start) -> None:
    client = await start()
    os.kill(client.ready.pid, signal.SIGSTOP)
    while client.healthy:  # noqa: ASYNC110
        await asyncio.sleep(0)
    os.kill(client.ready.pid, signal.SIGCONT)
    while not client.healthy:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_what_waits_for_a_suspended_engine_is_bounded_and_answered_when_it_goes_on(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_WAITING_BYTES", 1 << 20)
    client = await start()
    os.kill(client.ready.pid, signal.SIGSTOP)
    streams: list[Stream] = []
    with contextlib.suppress(Overloaded):
        for number in range(200):
            tokens = tuple(range(8000))
            streams.append(client.open([ask(f"r{number}", tokens, GenerationConfig(max_tokens=1))]))
    assert 32 < len(streams) < 100  # of 32 KB each; the ring holds a MiB, too
    os.kill(client.ready.pid, signal.SIGCONT)
    assert set(await asyncio.gather(*map(text_of, streams))) == {" 0"}
    assert await text_of(client.open([ask("r", (7,))])) == " 7"


async def test_a_stopped_engine_looks_stuck_and_can_still_be_closed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "STUCK_AFTER_S", 0.05)
    client = await start()
    stream = await running(client)
    os.kill(client.ready.pid, signal.SIGSTOP)
    while client.healthy:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert client.heartbeat is not None
    assert client.state is EngineState.READY
    await client.close(timeout=3600)  # nobody waits for what cannot listen
    with pytest.raises(EngineUnavailable):
        await text_of(stream)


async def test_an_engine_that_does_not_listen_is_killed(start: Start) -> None:
    client = await start("--deaf")
    await client.close(timeout=0.05)
    assert client.heartbeat is None


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_client_lives_in_the_loop_of_any_thread(
    new_loop: object,
) -> None:
    texts: list[str] = []

    async def use() -> None:
        client = await EngineClient.start(SPEC, command=fake_engine(), restart=True)
        texts.append(await text_of(client.open([ask("r", (1, 2))])))
        os.kill(client.ready.pid, signal.SIGKILL)
        with pytest.raises(EngineDied):
            await text_of(client.open([ask("r", (1,), ENDLESS)]))
        await client.until_ready()
        texts.append(await text_of(client.open([ask("r", (3,))])))
        await client.close()

    def main() -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:  # type: ignore[arg-type]
            runner.run(use())

    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
    assert texts == [" 1 2", " 3"]
