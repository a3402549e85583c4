"""The asyncio client against a real engine process that has no model."""

from __future__ import annotations

import asyncio

import pytest

from mlc_llm.errors import BadModel, DuplicateRequest, EngineDied, EngineFault, EngineUnavailable
from mlc_llm.ipc.heartbeat import Phase
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import FinishReason, Progress
from mlc_llm.serve.client.client import EngineClient
from support.clients import ENDLESS, SPEC, Start, ask, text_of
from support.fake_engine import fake_engine


async def test_many_requests_at_once_all_get_their_own_answer(start: Start) -> None:
    client = await start()
    streams = [client.open([ask(f"r{n}", (n, n + 1))]) for n in range(200)]
    texts = await asyncio.gather(*map(text_of, streams))
    assert texts == [f" {n} {n + 1}" for n in range(200)]
    assert client.num_live == 0


async def test_one_stream_carries_all_choices_of_all_its_requests(start: Start) -> None:
    client = await start()
    stream = client.open([ask("a", (1, 2), GenerationConfig(n=2)), ask("b", (3,))])
    texts: dict[tuple[str, int], str] = {}
    ends = []
    async for update in stream:
        ends += update.finished
        for delta in update.deltas:
            key = (delta.request_id, delta.index)
            texts[key] = texts.get(key, "") + delta.text
    assert texts == {("a", 0): " 1 2", ("a", 1): " 1 2", ("b", 0): " 3"}
    assert sorted(end.request_id for end in ends) == ["a", "b"]


async def test_start_reports_progress_and_limits() -> None:
    heard: list[Progress] = []
    client = await EngineClient.start(SPEC, command=fake_engine(), on_progress=heard.append)
    assert [p.message for p in heard] == ["Reading a-model"]
    assert client.ready.vocab_size > 0
    assert client.healthy
    await client.close()


async def test_a_refused_start_raises_what_the_engine_said(start: Start) -> None:
    with pytest.raises(BadModel, match="refuses"):
        await start("--start-failed", "BadModel")


async def test_a_death_during_start_names_exit_code_and_last_line(start: Start) -> None:
    with pytest.raises(EngineDied, match=r"exit code 7; its last line was: The fake engine gives"):
        await start("--exit-at-start", "7")


async def test_a_cancelled_start_leaves_no_process(start: Start) -> None:
    starting = asyncio.create_task(start("--never-ready"))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


async def test_an_aborted_stream_ends_with_its_reason(start: Start) -> None:
    client = await start()
    stream = client.open([ask("r", (1,), ENDLESS)])
    await anext(stream)
    client.abort_now("r")
    client.abort_now("r")
    reasons = [delta.finish_reason async for update in stream for delta in update.deltas]
    assert reasons[-1] is FinishReason.ABORT


async def test_a_request_aborted_in_the_breath_it_was_sent_ends(start: Start) -> None:
    client = await start()
    for number in range(50):
        stream = client.open([ask(f"r{number % 2}", (1,), ENDLESS)])
        client.abort_now(f"r{number % 2}")
        await text_of(stream)
    assert (await client.stats()).num_running == 0


async def test_a_closed_stream_frees_the_engine_without_being_awaited(start: Start) -> None:
    client = await start()
    stream = client.open([ask("a", (1,), ENDLESS), ask("b", (2,), ENDLESS)])
    await anext(stream)
    stream.close()
    assert (await client.stats()).num_running == 0
    assert client.num_live == 0


async def test_a_live_id_is_refused_and_the_live_one_is_not_disturbed(start: Start) -> None:
    client = await start()
    stream = client.open([ask("r", (1,), ENDLESS)])
    with pytest.raises(DuplicateRequest):
        client.open([ask("new", (1,)), ask("r", (1,))])
    assert (await anext(stream)).deltas
    assert client.num_live == 1
    stream.close()


async def test_one_failed_request_leaves_others_alone(start: Start) -> None:
    client = await start("--fail-token", "13")
    good = client.open([ask("good", (1, 2))])
    bad = client.open([ask("bad", (13,))])
    with pytest.raises(EngineFault, match="bad token"):
        await text_of(bad)
    assert await text_of(good) == " 1 2"


async def test_commands_beyond_the_ring_wait_without_blocking_the_loop(start: Start) -> None:
    client = await start()
    tokens = tuple(range(8000))
    streams = [
        client.open([ask(f"r{n}", tokens, GenerationConfig(max_tokens=1))]) for n in range(100)
    ]
    assert set(await asyncio.gather(*map(text_of, streams))) == {" 0"}


async def test_a_slow_reader_loses_nothing_when_the_output_ring_is_full(start: Start) -> None:
    client = await start()
    length = 12_000
    stream = client.open(
        [ask("r", (7,), GenerationConfig(max_tokens=length, n=64, ignore_eos=True))]
    )
    first = await anext(stream)
    while (heartbeat := client.heartbeat) is not None and heartbeat.phase is not Phase.IDLE:
        pass  # the event loop stands still until the engine parks before a full ring
    assert heartbeat is not None
    assert heartbeat.steps < length
    counts = {delta.index: delta.num_tokens for delta in first.deltas}
    async for update in stream:
        for delta in update.deltas:
            counts[delta.index] += delta.num_tokens
    assert counts == dict.fromkeys(range(64), length)


async def test_stats_trace_and_reset_are_answered(start: Start) -> None:
    client = await start()
    stream = client.open([ask("r", (1,), ENDLESS)])
    await anext(stream)
    assert (await client.stats()).num_running == 1
    assert await client.trace() == b"[]"
    await client.reset()
    await text_of(stream)
    assert (await client.stats()).num_running == 0


async def test_closing_ends_streams_and_can_be_done_twice(start: Start) -> None:
    client = await start()
    stream = client.open([ask("r", (1,), ENDLESS)])
    await anext(stream)
    await asyncio.gather(client.close(), client.close())
    with pytest.raises(EngineUnavailable, match="closed"):
        await text_of(stream)
    with pytest.raises(EngineUnavailable):
        client.open([ask("r", (1,))])
    with pytest.raises(EngineUnavailable):
        await client.stats()


async def test_draining_finishes_what_runs(start: Start) -> None:
    client = await start()
    stream = client.open([ask("r", tuple(range(1000)))])
    reading = asyncio.create_task(text_of(stream))
    await client.close(drain=True)
    assert (await reading).split() == [str(n) for n in range(1000)]


async def test_a_listener_to_progress_that_fails_costs_no_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(progress: object) -> None:
        raise BrokenPipeError("nobody reads")

    client = await EngineClient.start(SPEC, on_progress=fail, command=fake_engine())
    assert await text_of(client.open([ask("r", (1, 2))])) == " 1 2"
    await client.close()
    assert "nobody reads" in caplog.text
