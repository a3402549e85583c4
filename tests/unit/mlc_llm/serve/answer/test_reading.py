"""Thoughts and calls of tools in answers, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_api.sse import EventWriter
from mlc_llm.protocol.messages import Delta, Finished, FinishReason, TokenLogprob
from mlc_llm.protocol.responses import (
    ChatCompletionMessage,
    ChatCompletionStreamResponse,
    PromptTokensDetails,
    UsageInfo,
)
from mlc_llm.serve.answer.chunks import ChatChunks
from mlc_llm.serve.answer.delta import Answer
from mlc_llm.serve.answer.fold import Fold
from mlc_llm.serve.answer.markers import Markers
from mlc_llm.serve.answer.reading import Reading
from support.toy_tools import ToyReader

READING = Reading(open=ToyReader)
END = Finished("x", 3, 9)


def an_answer(reading: Reading | None = READING, **changes: Any) -> Answer:
    fields = {"id": "x", "model": "m", "created": 7, "request_ids": ("x",), "reading": reading}
    return Answer(**(fields | changes))


def deltas(
    *texts: str, index: int = 0, reason: FinishReason | None = FinishReason.STOP
) -> list[Delta]:
    news = [Delta("x", index, text, 1) for text in texts[:-1]]
    return [*news, Delta("x", index, texts[-1], 1, reason)]


def whole(*texts: str, reason: FinishReason = FinishReason.STOP, **changes: Any) -> Any:
    fold = Fold(an_answer(**changes))
    fold.add(deltas(*texts, reason=reason), [END])
    return fold.chat()


def streamed(*texts: str, reason: FinishReason = FinishReason.STOP, **changes: Any) -> Any:
    source = ChatChunks(an_answer(**changes))
    return source.add(deltas(*texts, reason=reason), [END])


def added_up(chunks: list[ChatCompletionStreamResponse]) -> tuple[dict[str, Any], list[Any]]:
    """The message as OpenAI's clients put it together, and the reasons of its ends."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "calls": {}}
    reasons = []
    for chunk in chunks:
        for choice in chunk.choices:
            message["content"] += choice.delta.content
            message["reasoning_content"] += choice.delta.reasoning_content or ""
            for call in choice.delta.tool_calls or ():
                if call.id is not None:
                    assert call.index == len(message["calls"]), "calls are told one by one"
                    message["calls"][call.index] = [call.id, call.function.name, ""]
                message["calls"][call.index][2] += call.function.arguments
            reasons += [choice.finish_reason] if choice.finish_reason else []
    return message, reasons


def said(message: ChatCompletionMessage) -> dict[str, Any]:
    calls = enumerate(message.tool_calls or ())
    return {
        "content": message.content or "",
        "reasoning_content": message.reasoning_content or "",
        "calls": {i: [c.id, c.function.name, c.function.arguments] for i, c in calls},
    }


def test_thoughts_content_and_calls_are_parts_of_the_message() -> None:
    answer = whole('(hm)Let me look.{f!"a":1}{g!}')
    (choice,) = answer.choices
    message = choice.message
    assert (message.content, message.reasoning_content) == ("Let me look.", "hm")
    assert message.reasoning == message.reasoning_content
    first, second = message.tool_calls or ()
    assert (first.function.name, first.function.arguments) == ("f", '{"a":1}')
    assert (second.function.name, second.function.arguments) == ("g", "{}")
    assert first.id.startswith("call_")
    assert first.id != second.id
    assert choice.finish_reason == "tool_calls"


def test_a_message_of_calls_alone_has_no_content() -> None:
    assert whole("{f!}").choices[0].message.content is None


def test_an_answer_without_thoughts_and_calls_is_as_if_nobody_had_read_it() -> None:
    texts = ["Hel", "lo", ""]
    read, plain = whole(*texts), whole(*texts, reading=None)
    assert msgspec.json.encode(read) == msgspec.json.encode(plain)
    assert added_up(streamed(*texts)) == added_up(streamed(*texts, reading=None))


@pytest.mark.parametrize(
    ("texts", "has_content"),
    [
        (["{f!", "}", ""], [False] * 4),
        (["(hm", ")yes", ""], [False, True, True]),
        (["yes", "{f!", "}", ""], [True] + [False] * 4),
        (["yes", ""], [True, True]),
    ],
    ids=["calls", "thoughts", "text and calls", "text"],
)
def test_chunks_have_content_where_they_tell_of_the_text(
    texts: list[str], has_content: list[bool]
) -> None:
    chunks = streamed(*texts)
    told = [json.loads(msgspec.json.encode(c))["choices"][0]["delta"] for c in chunks]
    assert ["content" in delta for delta in told] == has_content
    assert all(type(chunk.choices[0].delta.content) is str for chunk in chunks)


def test_a_call_begins_with_its_id_and_name_and_goes_on_with_its_arguments() -> None:
    chunks = streamed("{f!", '"a"', ":1}", "")
    first, *rest, last = [chunk.choices[0] for chunk in chunks]
    (call,) = first.delta.tool_calls or ()
    assert (call.index, call.type, call.function.name) == (0, "function", "f")
    assert call.function.arguments == ""
    assert first.delta.role == "assistant"
    for choice in rest:
        (more,) = choice.delta.tool_calls or ()
        assert (more.id, more.type, more.function.name, choice.delta.role) == (None,) * 4
    assert (last.finish_reason, last.delta.tool_calls, last.delta.content) == (
        "tool_calls",
        None,
        "",
    )


PIECES = st.lists(
    st.sampled_from(["a", " b", "(", ")", "{f!", "{g", "}", '"k":1', "!", "\n"]), max_size=20
)


@given(PIECES, PIECES)
def test_a_stream_adds_up_to_the_whole_answer(first: list[str], second: list[str]) -> None:
    """Except where a call breaks off: a stream cannot take its beginning back."""
    news = [*deltas(*first, ""), *deltas(*second, "", index=1)]
    fold = Fold(an_answer(n=2))
    fold.add(news, [END])
    answer = fold.chat()
    for index, texts in enumerate((first, second)):
        reader = ToyReader()
        events = [*reader.feed("".join(texts)), *reader.finish()]
        chunks = ChatChunks(an_answer(n=2)).add(news)
        mine = [chunk for chunk in chunks if chunk.choices[0].index == index]
        message, reasons = added_up(mine)
        assert reasons == [answer.choices[index].finish_reason]
        if not any(type(event).__name__ == "CallBreaks" for event in events):
            assert message == said(answer.choices[index].message)


@pytest.mark.parametrize("texts", [('{f!"a":',), ("{f", "!1")])
def test_a_call_that_is_cut_off_is_content_of_a_whole_answer(texts: tuple[str, ...]) -> None:
    (choice,) = whole(*texts, reason=FinishReason.LENGTH).choices
    assert choice.message.tool_calls is None
    assert choice.message.content
    assert choice.finish_reason == "length"


def test_calls_before_the_cut_stay_calls_but_the_reason_is_the_cut() -> None:
    (choice,) = whole("{f!}{g!", reason=FinishReason.LENGTH).choices
    assert [call.function.name for call in choice.message.tool_calls or ()] == ["f"]
    assert choice.finish_reason == "length"


def test_without_parallel_calls_only_the_first_is_told() -> None:
    reading = Reading(open=ToyReader, parallel=False)
    (choice,) = whole("{f!1}{g!2}", reading=reading).choices
    assert [call.function.name for call in choice.message.tool_calls or ()] == ["f"]
    message, reasons = added_up(streamed("{f!1}{g!2}", reading=reading))
    assert [call[1:] for call in message["calls"].values()] == [["f", "{1}"]]
    assert reasons == ["tool_calls"]


def test_arguments_may_be_the_object_itself() -> None:
    reading = Reading(open=ToyReader, arguments="object")
    (choice,) = whole('{f!"a":[1]}', reading=reading).choices
    (call,) = choice.message.tool_calls or ()
    assert call.function.arguments == {"a": [1]}


def test_streams_beside_objects_are_the_models_own_text() -> None:
    reading = Reading(open=ToyReader, arguments="object", markers=("<|x|>",))
    message, reasons = added_up(streamed("(hm)<|x", "|>{f!", "}<|", "", reading=reading))
    assert message == {"content": "(hm){f!}<|", "reasoning_content": "", "calls": {}}
    assert reasons == ["tool_calls"]


def test_thoughts_can_be_left_out() -> None:
    reading = Reading(open=ToyReader, with_reasoning=False)
    (choice,) = whole("(hm)yes", reading=reading).choices
    assert (choice.message.content, choice.message.reasoning_content) == ("yes", None)


def test_tokens_of_thoughts_are_counted_on_both_ways() -> None:
    texts = ("(h", "m", ")", "yes")
    details = whole(*texts).usage.completion_tokens_details
    assert details.reasoning_tokens == 3  # the end of the thought is one of them
    source = ChatChunks(an_answer(include_usage=True))
    assert whole("(hmm)yes").usage.completion_tokens_details.reasoning_tokens == 0
    news = [Delta("x", 0, "(hmmmm)yes", 10, FinishReason.STOP)]  # several tokens in one
    assert ChatChunks(an_answer(include_usage=True)).add(news, [END])[-1].usage == UsageInfo(
        prompt_tokens=3,
        completion_tokens=9,
        total_tokens=12,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=0),
        completion_tokens_details=msgspec.structs.replace(details, reasoning_tokens=5),
    )
    usage = source.add(deltas(*texts), [END])[-1].usage
    assert usage is not None
    assert usage.completion_tokens_details == details


def test_log_probabilities_wait_for_the_text_they_belong_to() -> None:
    tokens = [TokenLogprob(text.encode(), -0.5) for text in ("{f", "!}", "")]
    news = [Delta("x", 0, "{f", 1, logprobs=(tokens[0],))]
    news.append(Delta("x", 0, "!}", 1, None, tuple(tokens[1:])))
    news.append(Delta("x", 0, "", 0, FinishReason.STOP))
    source = ChatChunks(an_answer(logprobs=True))
    chunks = [c.choices[0] for delta in news for c in source.add([delta])]
    shown = [t.token for c in chunks if c.logprobs for t in c.logprobs.content]
    assert shown == ["{f", "!}", ""]
    assert chunks[0].delta.tool_calls


def test_an_answer_that_is_given_up_keeps_what_was_withheld() -> None:
    news = [Delta("x", 0, "yes {f", 1)]
    fold = Fold(an_answer())
    fold.add(news, [END])
    assert fold.chat().choices[0].message.content == "yes {f"
    message, reasons = added_up(ChatChunks(an_answer()).add(news, [END]))
    assert (message["content"], reasons) == ("yes {f", ["abort"])


def test_events_on_the_wire_are_the_chunks() -> None:
    writer, source = EventWriter.chat(an_answer()), ChatChunks(an_answer())
    for delta in deltas("(hm)", "a{f", "!1", "}", "b"):
        expected = b"".join(
            b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in source.add([delta])
        )
        assert writer.deltas([delta]) == expected


def test_markers_are_for_the_reader_alone() -> None:
    reading = Reading(open=ToyReader, markers=("<|x|>",))
    assert whole("a<|", "x|>b<", reading=reading).choices[0].message.content == "ab<"


@given(st.lists(st.sampled_from(["<", "<|", "x", "|>", "<|x|>", "a"])))
def test_markers_go_however_the_text_is_cut(pieces: list[str]) -> None:
    markers = Markers(("<|x|>", "<|y"))
    shown = "".join(map(markers.feed, pieces)) + markers.finish()
    once = Markers(("<|x|>", "<|y"))
    assert shown == once.feed("".join(pieces)) + once.finish()
