"""The Responses API as chat requests and chat answers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_llm.errors import BadRequest, EngineDied, EngineUnavailable
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import Delta, Finished, FinishReason, TokenLogprob
from mlc_llm.protocol.requests import ChatCompletionRequest, ChatMessage, parse_as
from mlc_llm.protocol.responses import ChatCompletionMessage, ChatFunctionCall, ChatToolCall
from mlc_llm.protocol.responses_api import (
    ItemEvent,
    OutputCall,
    OutputMessage,
    ResponseEvent,
    ResponseObject,
    ResponsesRequest,
    StreamEvent,
    TextDeltaEvent,
)
from mlc_llm.serve.answer.delta import Answer
from mlc_llm.serve.answer.fold import Fold
from mlc_llm.serve.answer.reading import Reading
from mlc_llm.serve.responses.input import (
    chat_request,
    check_supported,
    messages_of,
    named_as_here,
)
from mlc_llm.serve.responses.output import begun, ended, said
from mlc_llm.serve.responses.store import ResponseNotFound, ResponseStore, Stored
from mlc_llm.serve.responses.stream import ResponseStream
from support.news import cuts
from support.toy_tools import ToyReader

ANSWER = Answer(id="resp_1", model="m", created=7, request_ids=("resp_1",), logprobs=True)


def a_request(what: Any = "hi", **fields: Any) -> ResponsesRequest:
    return parse_as(msgspec.json.encode({"input": what, **fields}), ResponsesRequest)


def chat(what: Any = "hi", **fields: Any) -> ChatCompletionRequest:
    request = a_request(what, **fields)
    check_supported(request)
    return chat_request(request, (), messages_of(request).messages)


def plain(messages: Any) -> list[dict[str, Any]]:
    built = msgspec.to_builtins(list(messages))
    return [{k: v for k, v in message.items() if v is not None} for message in built]


# --- input --------------------------------------------------------------------------------


def test_a_text_is_the_users_message_after_the_instructions() -> None:
    assert plain(chat("hi", instructions="Be brief.").messages) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]


def part(kind: str, text: str) -> dict[str, str]:
    return {"type": kind, "text": text}


def test_items_become_messages_calls_and_their_results() -> None:
    items = [
        {"role": "user", "content": [part("input_text", "wea"), part("input_text", "ther?")]},
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant", "content": [part("output_text", "Let me see.")]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
    ]  # fmt: skip
    messages = messages_of(a_request(items)).messages
    assert [m.role for m in messages] == ["user", "assistant", "tool"]
    assert [m.content for m in messages] == ["weather?", "Let me see.", "rain"]
    calls = messages[1].tool_calls or []
    assert [(c.id, c.function.name) for c in calls] == [("c1", "f"), ("c2", "g")]
    assert messages[2].tool_call_id == "c1"


def test_options_are_those_of_a_chat_request() -> None:
    found = chat(max_output_tokens=5, temperature=0.5, top_p=0.9, stream=True, top_logprobs=2)
    assert (found.max_completion_tokens, found.temperature, found.top_p) == (5, 0.5, 0.9)
    assert (found.stream, found.logprobs, found.top_logprobs) == (True, True, 2)
    assert chat(include=["message.output_text.logprobs"]).logprobs is True
    assert chat().logprobs is None


def test_tools_are_those_of_a_chat_request() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    found = chat(tools=[tool], tool_choice={"type": "function", "name": "f"})
    function = {"name": "f", "parameters": {"type": "object"}, "strict": True}
    assert msgspec.to_builtins(found.tools)[0]["function"].items() >= function.items()
    assert found.tool_choice == {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user"}]}, "input.0.content"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input.0.name"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input.0.call_id"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input.0.call_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"tool_choice": 3}, "tool_choice"),
        ({"max_output_tokens": "many"}, "max_output_tokens"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_by_its_name_here(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        chat(fields.pop("input", "hi"), **fields)
    assert caught.value.param == param


# --- output -------------------------------------------------------------------------------


def deltas(*texts: str, reason: FinishReason = FinishReason.STOP) -> list[Delta]:
    logprob = (TokenLogprob(b"t", -1.0, ((b"t", -1.0),)),)
    parts = [Delta("resp_1", 0, text, 1, None, logprob) for text in texts]
    return [*parts, Delta("resp_1", 0, "", 1, reason)]


END = [Finished("resp_1", 5, 3, cached_tokens=2)]


def whole(news: list[Delta]) -> ResponseObject:
    fold = Fold(ANSWER)
    fold.add(news, END)
    return ended(begun(a_request(), ANSWER, GenerationConfig()), fold.chat(), 9)


def test_a_response_holds_one_message_and_the_usage() -> None:
    found = whole(deltas("Hel", "lo"))
    (message,) = found.output
    assert isinstance(message, OutputMessage)
    assert (message.id, message.status, message.content[0].text) == ("msg_1", "completed", "Hello")
    assert [entry.logprob for entry in message.content[0].logprobs] == [-1.0, -1.0]
    assert (found.status, found.completed_at, found.incomplete_details) == ("completed", 9, None)
    assert found.usage is not None
    assert (found.usage.input_tokens, found.usage.output_tokens) == (5, 3)
    assert found.usage.input_tokens_details.cached_tokens == 2


def test_a_response_that_was_cut_says_so() -> None:
    found = whole(deltas("Hel", reason=FinishReason.LENGTH))
    assert found.status == "incomplete"
    assert found.incomplete_details is not None
    assert found.incomplete_details.reason == "max_output_tokens"


def test_a_response_that_was_given_up_is_none() -> None:
    with pytest.raises(EngineUnavailable):
        whole(deltas("Hel", reason=FinishReason.ABORT))


def test_calls_of_tools_are_items_of_their_own() -> None:
    fold = Fold(ANSWER)
    fold.add(deltas(""), END)
    answer = fold.chat()
    call = ChatToolCall(
        id="c1", type="function", function=ChatFunctionCall(name="f", arguments="{}")
    )
    message = ChatCompletionMessage(content=None, role="assistant", refusal=None, tool_calls=[call])
    choice = msgspec.structs.replace(answer.choices[0], message=message, finish_reason="tool_calls")
    blank = begun(a_request(), ANSWER, GenerationConfig())
    found = ended(blank, msgspec.structs.replace(answer, choices=[choice]), 9)
    (item,) = found.output
    assert isinstance(item, OutputCall)
    assert (item.call_id, item.name, item.arguments, item.status) == ("c1", "f", "{}", "completed")
    (said_again,) = said(found)
    assert said_again.tool_calls is not None
    assert said_again.tool_calls[0].id == "c1"


texts = st.lists(st.sampled_from(["", "a", "the ", "\u65e5\u672c"]), max_size=6)


@given(texts, st.data())
def test_the_events_of_a_stream_add_up_to_the_response(
    parts: list[str], data: st.DataObject
) -> None:
    news = deltas(*parts)
    stream = ResponseStream(begun(a_request(), ANSWER, GenerationConfig()), ANSWER)
    events: list[StreamEvent] = stream.begin()
    for step in data.draw(cuts(news)):
        events += stream.add(step, [])
    events += stream.add([], END)
    events += stream.end(9)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events if not isinstance(event, TextDeltaEvent)]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(e.delta for e in events if isinstance(e, TextDeltaEvent)) == "".join(parts)
    last = events[-1]
    assert isinstance(last, ResponseEvent)
    assert last.response == whole(news) == stream.response
    done = events[-2]
    assert isinstance(done, ItemEvent)
    assert done.item == last.response.output[0]


READ = msgspec.structs.replace(ANSWER, logprobs=False, reading=Reading(open=ToyReader))


def streamed(*parts: str, reason: FinishReason = FinishReason.STOP) -> list[StreamEvent]:
    stream = ResponseStream(begun(a_request(), READ, GenerationConfig()), READ)
    events = stream.begin()
    for delta in deltas(*parts, reason=reason):
        events += stream.add([delta], [])
    return events + stream.add([], END) + stream.end(9)


def test_thoughts_text_and_calls_are_items_one_after_the_other() -> None:
    parts = ["(hm", ")I ", "look.", '{f!"a"', ":1}", "{g!}"]
    events = streamed(*parts)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events[2:]]
    added, done, call = "output_item.added", "output_item.done", "function_call_arguments"
    assert kinds == [
        *(added, "content_part.added", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", done),
        *(added, "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", done),
        *(added, f"{call}.delta", f"{call}.delta", f"{call}.done", done),
        *(added, f"{call}.delta", f"{call}.done", done),
        "completed",
    ]
    last = events[-1]
    assert isinstance(last, ResponseEvent)
    fold = Fold(READ)
    fold.add(deltas(*parts), END)
    assert last.response == ended(begun(a_request(), READ, GenerationConfig()), fold.chat(), 9)
    done_items = [e.item for e in events if isinstance(e, ItemEvent) and e.type.endswith("done")]
    assert done_items == last.response.output
    (message,) = said(last.response)
    assert (message.content, message.reasoning_content) == ("I look.", "hm")
    assert [c.function.arguments for c in message.tool_calls or ()] == ['{"a":1}', "{}"]


def test_a_call_that_is_cut_off_is_an_incomplete_item_and_forgotten() -> None:
    events = streamed('{f!"a":', reason=FinishReason.LENGTH)
    last = events[-1]
    assert isinstance(last, ResponseEvent)
    assert (last.type, last.response.status) == ("response.incomplete", "incomplete")
    (item,) = last.response.output
    assert isinstance(item, OutputCall)
    assert item.status == "incomplete"
    assert said(last.response)[0].tool_calls is None


def test_thoughts_go_with_what_was_said_after_them() -> None:
    thought = {"type": "reasoning", "content": [part("reasoning_text", "hm")], "summary": []}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "x"}
    answer = {"role": "assistant", "content": "yes"}
    messages, places = messages_of(a_request([thought, call, result, thought, answer, thought]))
    assert places == ("input.0", "input.2", "input.3")
    assert [m.role for m in messages] == ["assistant", "tool", "assistant"]
    assert [m.reasoning_content for m in messages] == ["hm", None, "hm"]
    assert (messages[0].content, messages[2].content) == (None, "yes")


def test_errors_of_tools_name_the_flat_form() -> None:
    with pytest.raises(BadRequest) as caught, named_as_here():
        raise BadRequest("`tools.3.function.name` is bad.", param="tools.3.function.name")
    assert (caught.value.param, caught.value.message) == ("tools.3.name", "`tools.3.name` is bad.")


def test_a_stream_that_fails_says_why() -> None:
    stream = ResponseStream(begun(a_request(), ANSWER, GenerationConfig()), ANSWER)
    stream.begin()
    (event,) = stream.fail(EngineDied("It died."))
    assert isinstance(event, ResponseEvent)
    assert (event.type, event.response.status) == ("response.failed", "failed")
    assert event.response.error is not None
    assert event.response.error.message == "It died."


# --- store --------------------------------------------------------------------------------


def stored(name: str, text: str = "hi") -> Stored:
    blank = begun(a_request(), msgspec.structs.replace(ANSWER, id=name), GenerationConfig())
    return Stored(blank, (ChatMessage(role="user", content=text),))


def test_the_oldest_responses_are_forgotten_first() -> None:
    store = ResponseStore(max_responses=2)
    for name in "abc":
        store.put(stored(name))
    assert len(store) == 2
    assert store.get("c").response.id == "c"
    with pytest.raises(ResponseNotFound) as caught:
        store.get("a", "previous_response_id")
    assert (caught.value.status_code, caught.value.param) == (404, "previous_response_id")


def test_the_store_is_bounded_in_bytes() -> None:
    store = ResponseStore(max_bytes=5000)
    store.put(stored("large", "x" * 6000))
    assert len(store) == 0
    for number in range(50):
        store.put(stored(str(number), "x" * 1000))
    assert 1 <= len(store) <= 4
    store.get("49")


def test_a_deleted_response_is_gone() -> None:
    store = ResponseStore()
    store.put(stored("a"))
    store.delete("a")
    for act in (store.get, store.delete):
        with pytest.raises(ResponseNotFound):
            act("a")
