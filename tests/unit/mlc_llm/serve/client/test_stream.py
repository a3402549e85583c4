"""Streams and the book of live requests, without a process."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_llm.errors import DuplicateRequest, EngineDied, EngineFault, PromptTooLong
from mlc_llm.protocol.messages import (
    Delta,
    Failed,
    Finished,
    FinishReason,
    PromptToken,
    StepOutput,
    TokenLogprob,
)
from mlc_llm.serve.client.requests import LiveRequests
from mlc_llm.serve.client.stream import MOST_UNMERGED, Stream, Update, merge


class Book(LiveRequests):
    """Live requests that remember which aborts they sent."""

    def __init__(self) -> None:
        self.aborts: list[str] = []
        super().__init__(lambda request_id, place: self.aborts.append(request_id))


def said(request_id: str, text: str = "x", index: int = 0) -> Delta:
    return Delta(request_id, index, text, 1)


def end(request_id: str) -> Finished:
    return Finished(request_id, 1, 1)


async def rest(stream: Stream) -> list[Update]:
    return [update async for update in stream]


async def test_a_stream_ends_when_its_last_request_has_ended() -> None:
    book = Book()
    stream = book.open(["a", "b"])
    book.dispatch(StepOutput([said("a"), said("b")], [end("a")]))
    book.dispatch(StepOutput([said("b")], [end("b")]))
    updates = await rest(stream)
    assert [finished.request_id for u in updates for finished in u.finished] == ["a", "b"]
    assert len(book) == 0
    assert book.aborts == []


async def test_updates_of_a_slow_reader_are_merged_into_one() -> None:
    book = Book()
    stream = book.open(["a"])
    for number in range(1000):
        book.dispatch(StepOutput([said("a", str(number))]))
    update = await anext(stream)
    assert len(update.deltas) == 1
    assert update.deltas[0].text == "".join(map(str, range(1000)))
    assert update.deltas[0].num_tokens == 1000


async def test_a_reader_is_woken_once_per_frame() -> None:
    book = Book()
    stream = book.open(["a", "b"])
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    book.dispatch(StepOutput([said("a"), said("b"), said("a", index=1)]))
    assert await reading == Update([said("a"), said("b"), said("a", index=1)], [])


async def test_a_failure_is_raised_with_its_kind_after_the_news_before_it() -> None:
    book = Book()
    stream = book.open(["a", "b"])
    book.dispatch(StepOutput([said("a")]))
    book.dispatch(StepOutput(failed=[Failed("a", "PromptTooLong", "Too long.")]))
    assert (await anext(stream)).deltas == [said("a")]
    with pytest.raises(PromptTooLong, match="Too long"):
        await anext(stream)
    assert book.aborts == ["b"]
    assert await rest(stream) == []


async def test_an_unknown_kind_of_failure_is_the_engines_fault() -> None:
    book = Book()
    stream = book.open(["a"])
    book.dispatch(StepOutput(failed=[Failed("a", "SystemExit", "Odd.")]))
    with pytest.raises(EngineFault):
        await anext(stream)


async def test_a_closed_stream_aborts_what_has_not_ended_once() -> None:
    book = Book()
    stream = book.open(["a", "b"])
    book.dispatch(StepOutput([], [end("a")]))
    stream.close()
    stream.close()
    book.abort("b")
    assert book.aborts == ["b"]
    assert await rest(stream) == []


async def test_an_id_cannot_be_used_again_until_the_engine_has_ended_it() -> None:
    book = Book()
    book.open(["a"]).close()
    with pytest.raises(DuplicateRequest, match="'a'"):
        book.open(["a"])
    book.dispatch(StepOutput([], [end("a")]))
    assert len(book) == 0
    book.open(["a"])


def test_a_call_with_one_bad_id_opens_nothing() -> None:
    book = Book()
    with pytest.raises(DuplicateRequest):
        book.open(["a", "b", "a"])
    assert len(book) == 0


async def test_a_stream_that_nobody_reads_keeps_little_more_than_its_text() -> None:
    book = Book()
    stream = book.open(["a"])
    book.dispatch(StepOutput([said("a", "xy")]))
    tracemalloc.start()
    try:
        for _ in range(20_000):
            book.dispatch(StepOutput([said("a", "xy"), said("a", "z", index=1)]))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 40_000 + 60_000 + 512 * MOST_UNMERGED
    update = await anext(stream)
    assert {delta.index: delta.num_tokens for delta in update.deltas} == {0: 20_001, 1: 20_000}


async def test_an_abort_says_which_commands_it_comes_after() -> None:
    sent: list[tuple[str, int]] = []
    book = LiveRequests(lambda request_id, place: sent.append((request_id, place)))
    book.open(["a", "b"], place=2)
    book.open(["c"], place=3).close()
    book.abort("b")
    assert sent == [("c", 3), ("b", 2)]


async def test_an_aborted_request_can_be_aborted_again_under_its_next_life() -> None:
    book = Book()
    for _ in range(2):
        stream = book.open(["a"])
        book.abort("a")
        book.abort("a")
        book.dispatch(StepOutput([Delta("a", 0, "", 0, FinishReason.ABORT)], [end("a")]))
        assert [u.deltas[0].finish_reason for u in await rest(stream)] == [FinishReason.ABORT]
    assert book.aborts == ["a", "a"]


async def test_a_waiting_reader_is_told_of_the_engines_death() -> None:
    book = Book()
    stream = book.open(["a", "b"])
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    book.fail_all(EngineDied("It died."))
    with pytest.raises(EngineDied):
        await reading
    assert book.aborts == []


async def test_closing_a_stream_lets_go_of_a_waiting_reader() -> None:
    stream = Book().open(["a"])
    reading = asyncio.create_task(rest(stream))
    await asyncio.sleep(0)
    stream.close()
    assert await reading == []


deltas = st.builds(
    Delta,
    request_id=st.sampled_from("ab"),
    index=st.integers(0, 1),
    text=st.text(max_size=3),
    num_tokens=st.integers(0, 3),
    finish_reason=st.none() | st.sampled_from(FinishReason),
    logprobs=st.lists(st.builds(TokenLogprob, st.binary(max_size=2), st.just(-1.0))).map(tuple),
)


@given(st.lists(deltas, max_size=20))
def test_merged_deltas_say_the_same_with_one_entry_per_choice(parts: list[Delta]) -> None:
    merged = merge(parts)
    assert len({(d.request_id, d.index) for d in merged}) == len(merged)
    for whole in merged:
        mine = [d for d in parts if (d.request_id, d.index) == (whole.request_id, whole.index)]
        assert whole.text == "".join(d.text for d in mine)
        assert whole.num_tokens == sum(d.num_tokens for d in mine)
        assert whole.logprobs == tuple(entry for d in mine for entry in d.logprobs)
        reasons = [d.finish_reason for d in mine if d.finish_reason is not None]
        assert whole.finish_reason == (reasons[-1] if reasons else None)


def test_merged_deltas_tell_of_the_whole_prompt() -> None:
    tokens = [PromptToken(i, b"t", -1.0, 1) for i in range(3)]
    parts = [Delta("a", 0, "", 0, prompt=(token,)) for token in tokens]
    (merged,) = merge([*parts, said("a")])
    assert merged.prompt == tuple(tokens)
    assert merged.text == "x"
