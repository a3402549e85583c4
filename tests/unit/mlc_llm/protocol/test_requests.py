"""Reading request bodies and keyword arguments, and the sentences for what is wrong with them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc_llm.errors import BadRequest
from mlc_llm.protocol import requests
from mlc_llm.protocol.requests import (
    ChatCompletionRequest,
    CompletionRequest,
    from_arguments,
    parse_chat,
    parse_completion,
)
from mlc_llm.protocol.responses import ChatCompletionMessage, ChatFunctionCall, ChatToolCall
from support.shared import shared_path

USER = {"role": "user", "content": "hi"}


def test_what_an_openai_client_sends_is_read() -> None:
    body = {
        "model": "m",
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "be brief"}]},
            USER,
            {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "f", "arguments": "{}"},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "7"},
        ],
        "max_completion_tokens": 5,
        "logit_bias": {"50256": -100},
        "temperature": 1,
        "stop": ["a", "b"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "parallel_tool_calls": True,
        "service_tier": "auto",
    }
    request = parse_chat(json.dumps(body).encode())
    assert request.max_completion_tokens == 5
    assert request.logit_bias == {50256: -100.0}
    assert [message.role for message in request.messages] == [
        "developer",
        "user",
        "assistant",
        "tool",
    ]


def test_what_an_mlc_client_sends_is_read() -> None:
    request = from_arguments(
        CompletionRequest,
        {"prompt": [1, 2], "logprobs": True, "debug_config": {"ignore_eos": True, "x": 1}},
    )
    assert request.logprobs is True
    assert request.debug_config is not None
    assert request.debug_config.ignore_eos


@pytest.mark.parametrize("prompt", ["text", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_every_form_of_a_prompt_is_read(prompt: Any) -> None:
    assert parse_completion(json.dumps({"prompt": prompt}).encode()).prompt == prompt


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({}, "messages", "`messages` is required."),
    ({"messages": None}, "messages", "`messages` must be a list, not null."),
    ({"messages": [{}]}, "messages.0.role", "`messages.0.role` is required."),
    (
        {"messages": [USER, {"role": 1}]},
        "messages.1.role",
        "`messages.1.role` must be a string, not an integer.",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": 3}]}]},
        "messages.0.content.0.type",
        "`messages.0.content.0.type` must be a string, not an integer.",
    ),
    ({"messages": [], "max_tokens": 1.5}, "max_tokens", "must be an integer, not a number"),
    ({"messages": [], "max_tokens": True}, "max_tokens", "must be an integer, not true or false"),
    ({"messages": [], "temperature": "1"}, "temperature", "must be a number, not a string"),
    ({"messages": [], "stop": [1]}, "stop.0", "must be a string, not an integer"),
    ({"messages": [], "stop": 1}, "stop", "must be a string or a list, not an integer"),
    ({"messages": [], "logit_bias": {"x": 1}}, "logit_bias", "Every key of `logit_bias`"),
    ({"messages": [], "logit_bias": {"1": "y"}}, "logit_bias", "must be a number"),
    (
        {"messages": [], "stream_options": {"include_usage": 1}},
        "stream_options.include_usage",
        "must be true or false",
    ),
]


@pytest.mark.parametrize(("body", "param", "sentence"), WRONG)
def test_a_wrong_field_is_named(body: dict[str, Any], param: str, sentence: str) -> None:
    for read in (
        lambda: parse_chat(json.dumps(body).encode()),
        lambda: from_arguments(ChatCompletionRequest, body),
    ):
        with pytest.raises(BadRequest) as caught:
            read()
        assert caught.value.param == param
        assert sentence in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"messages":[]} trailing',
        b'{"messages":[],"temperature":NaN}',
        b'{"messages":[],"temperature":1e999}',
        b'{"messages":[],"x":Infinity}',
        b'{"messages":[],"x":"\xff"}',
        b'{"messages":[],"stop":"\\ud800"}',
        b'{"x":' + b"[" * 1_000_000,
        b'{"tools":' + b'[{"a":' * 100_000,
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_chat(body)


@pytest.mark.parametrize(
    "prompt",
    [
        b"1," * (1 << 20) + b"1",
        b"[1]," * (1 << 18) + b"[1]",
        b'{"a":1},' * (1 << 18) + b"1",
        b"{" + b'"a":1,' * 210_000 + b'"a":1}',
    ],
    ids=["numbers", "lists", "objects", "names"],
)
def test_a_body_of_too_many_values_is_refused_before_it_is_read(
    prompt: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "_completion", None)  # nobody may decode it
    with pytest.raises(BadRequest, match="more values than one request may"):
        parse_completion(b'{"prompt":[' + prompt + b"]}")


def test_bad_json_of_the_public_suite_is_refused_wherever_it_stands() -> None:
    folder = shared_path("data/suites/JSONTestSuite")
    for path in folder.glob("n_*.json"):
        with pytest.raises(BadRequest):
            parse_chat(b'{"messages":[],"unknown":' + path.read_bytes() + b"}")


@settings(deadline=None, max_examples=100)
@given(body=st.binary(max_size=60))
def test_no_bytes_raise_anything_but_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_chat(body)


def test_a_byte_order_mark_is_no_part_of_the_body() -> None:
    assert parse_completion(b'\xef\xbb\xbf{"prompt": "a"}').prompt == "a"
    with pytest.raises(BadRequest):
        parse_completion(b'\xef\xbb\xbf\xef\xbb\xbf{"prompt": "a"}')


def test_integers_may_be_written_as_other_languages_write_them() -> None:
    body = {"prompt": "a", "max_tokens": 16.0, "n": 1e0, "temperature": 1.0, "seed": -3.0}
    body["logprobs"] = 2.0
    read = parse_completion(json.dumps(body).encode())
    assert (read.max_tokens, read.n, read.temperature, read.seed) == (16, 1, 1, -3)
    assert all(type(value) is int for value in (read.max_tokens, read.n, read.seed))


@pytest.mark.parametrize("value", [1.5, -0.5, "16", True, [1.0]])
def test_what_is_no_integer_stays_none(value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_completion(json.dumps({"prompt": "a", "n": 1.0, "max_tokens": value}).encode())
    assert caught.value.param == "max_tokens"


def test_keyword_arguments_may_name_biased_tokens_by_strings() -> None:
    arguments = {"messages": [USER], "logit_bias": {"7": 1, 8: 2}}
    assert from_arguments(ChatCompletionRequest, arguments).logit_bias == {7: 1.0, 8: 2.0}


def test_an_answer_s_message_may_be_sent_back_as_it_is() -> None:
    call = ChatToolCall(
        id="c", type="function", function=ChatFunctionCall(name="f", arguments='{"a": 1}')
    )
    said = ChatCompletionMessage(
        content=None, role="assistant", refusal=None, tool_calls=[call], reasoning_content="hm"
    )
    result = {"role": "tool", "tool_call_id": "c", "content": "2"}
    request = from_arguments(ChatCompletionRequest, {"messages": (USER, said, result)})
    (found,) = request.messages[1].tool_calls or ()
    assert (found.id, found.function.name, found.function.arguments) == ("c", "f", '{"a": 1}')
    assert request.messages[1].reasoning_content == "hm"
    with pytest.raises(BadRequest) as caught:
        from_arguments(ChatCompletionRequest, {"messages": [USER, object()]})
    assert caught.value.param == "messages.1"
