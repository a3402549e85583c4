"""Events as bytes say what the chunk objects say."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mlc_api.sse import EventWriter, encode_text, escape_line_ends
from mlc_llm.protocol.messages import Delta, Finished, FinishReason
from mlc_llm.serve.answer.chunks import ChatChunks, CompletionChunks
from mlc_llm.serve.answer.delta import Answer
from mlc_llm.serve.answer.fold import Fold
from support.news import cuts, deltas, finished, interleavings

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
AWKWARD = '"\\\n\r\t\x00\x1f\x85\u2028\u2029\U0001f600</script>'


def answer(**fields: Any) -> Answer:
    given: dict[str, Any] = {"id": "a", "model": 'm"\u2028', "created": 1, "request_ids": ("r",)}
    return Answer(**{**given, **fields})


def parse(data: bytes) -> list[dict[str, Any]]:
    """The events of a stream, read as strictly as a line reader can."""
    events = data.decode().split("\n\n")
    assert events.pop() == ""
    for event in events:
        assert len(event.splitlines()) == 1
        assert event.startswith("data: ")
    return [json.loads(event[6:]) for event in events]


def say(text: str, index: int = 0, reason: FinishReason | None = None) -> Delta:
    return Delta("r", index, text, 1, reason)


@given(TEXTS | st.just(AWKWARD))
def test_an_escaped_text_reads_back_and_is_one_line(text: str) -> None:
    encoded = encode_text(text).decode()
    assert json.loads(encoded) == text
    assert len(encoded.splitlines()) == 1


def test_awkward_characters_survive_every_kind_of_event() -> None:
    writer = EventWriter.chat(answer())
    data = writer.deltas([say(AWKWARD)]) + writer.deltas([say(AWKWARD)])
    data += writer.deltas([say(AWKWARD, reason=FinishReason.STOP)])
    assert [e["choices"][0]["delta"]["content"] for e in parse(data)] == [AWKWARD] * 3


@given(st.data())
def test_events_are_the_encoded_chunks(data: st.DataObject) -> None:
    chat = data.draw(st.booleans())
    ids = ("r", "s")[: data.draw(st.integers(1, 2))]
    n = data.draw(st.integers(1, 2))
    histories = [data.draw(deltas(id, i)) for id in ids for i in range(n)]
    steps = data.draw(cuts(data.draw(interleavings(histories))))
    ends = [data.draw(finished(id)) for id in ids]
    given_answer = answer(
        request_ids=ids,
        n=n,
        logprobs=data.draw(st.booleans()),
        include_usage=data.draw(st.booleans()),
        echo=() if chat else data.draw(st.sampled_from([(), ("p\u2028",) * len(ids)])),
    )
    chunks = ChatChunks(given_answer) if chat else CompletionChunks(given_answer)
    expected = [c for step in steps for c in chunks.add(step)] + list(chunks.add((), ends))
    writer = EventWriter.chat(given_answer) if chat else EventWriter.completion(given_answer)
    written = b"".join([writer.deltas(step) for step in steps] + writer.finish(ends))
    assert written == b"".join(
        b"data: " + escape_line_ends(msgspec.json.encode(chunk)) + b"\n\n" for chunk in expected
    )


@given(st.lists(TEXTS, max_size=8))
def test_concatenated_events_are_the_folded_text(texts: list[str]) -> None:
    news = [say(text) for text in texts] + [say("", reason=FinishReason.STOP)]
    end = Finished("r", 1, len(texts))
    writer, fold = EventWriter.completion(answer()), Fold(answer())
    data = b"".join([writer.deltas([delta]) for delta in news])
    fold.add(news, [end])
    streamed = "".join(event["choices"][0]["text"] for event in parse(data))
    assert streamed == fold.completion().choices[0].text == "".join(texts)


def test_a_step_that_shows_nothing_makes_no_event() -> None:
    writer = EventWriter.chat(answer())
    assert writer.deltas([say("")]) == b""
    assert parse(writer.deltas([say("a")]))[0]["choices"][0]["delta"]["role"] == "assistant"
    assert writer.deltas([say("")]) == b""


def test_the_news_of_all_choices_in_one_step_make_one_event_each() -> None:
    writer = EventWriter.chat(answer(n=2))
    events = parse(writer.deltas([say("a", 0), say("b", 1)]))
    assert [e["choices"][0]["index"] for e in events] == [0, 1]
    assert [len(e["choices"]) for e in events] == [1, 1]


def test_usage_is_an_event_of_its_own_and_only_when_asked_for() -> None:
    end = [Finished("r", 3, 4)]
    plain, asked = EventWriter.chat(answer()), EventWriter.chat(answer(include_usage=True))
    for writer in (plain, asked):
        writer.deltas([say("a", reason=FinishReason.STOP)])
    assert plain.finish(end) == []
    (event,) = parse(b"".join(asked.finish(end)))
    assert event["choices"] == []
    assert event["usage"]["total_tokens"] == 7
