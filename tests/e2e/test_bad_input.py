"""Every mistake in a request is a 4xx that names the field, before any streaming starts."""

from __future__ import annotations

import json

import pytest
import requests

from support.server import Server

CHAT: dict[str, object] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
TEXT: dict[str, object] = {"prompt": "Hello", "max_tokens": 4}

BAD_CHAT: list[tuple[dict[str, object], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages"),
    ({"messages": [{"content": "x"}]}, "messages"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages"),
    ({"messages": [{"role": "user", "content": "word " * 5000}]}, "messages"),
    ({"model": "no-such-model"}, "model"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 1e30}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": -5}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"frequency_penalty": 3}, "frequency_penalty"),
    ({"presence_penalty": -3}, "presence_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -2}, "max_tokens"),
    ({"max_tokens": 2**70}, "max_tokens"),
    ({"n": 0}, "n"),
    ({"n": 10**6}, "n"),
    ({"logit_bias": {"99999999": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 10**6}, "top_logprobs"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["a"] * 1000}, "stop"),
    ({"stop": 5}, "stop"),
    ({"stop_token_ids": [10**9]}, "stop_token_ids"),
    ({"seed": "x"}, "seed"),
    ({"stream_options": {"include_usage": "often"}}, "stream_options"),
    ({"response_format": {"type": "riddle"}}, "response_format"),
]

BAD_TEXT: list[tuple[dict[str, object], str]] = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [10**9]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [["a"]]}, "prompt"),
    ({"prompt": ["x"] * 5000}, "prompt"),
    ({"prompt": [5] * 5000}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"logprobs": 1000}, "logprobs"),
    ({"best_of": 5, "n": 6}, "best_of"),
]


def check(answer: requests.Response, param: str) -> None:
    error = answer.json()["error"]
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "").split(".")[0] == param, error
    assert error["message"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("fields", "param"), BAD_CHAT)
def test_a_bad_chat_request_names_the_field(packaged: Server, fields, param, streamed) -> None:
    body = {**CHAT, **fields, **({"stream": True} if streamed else {})}
    check(requests.post(f"{packaged.base_url}/chat/completions", json=body, timeout=30), param)


@pytest.mark.parametrize(("fields", "param"), BAD_TEXT)
def test_a_bad_completion_request_names_the_field(packaged: Server, fields, param) -> None:
    body = {**TEXT, **fields}
    check(requests.post(f"{packaged.base_url}/completions", json=body, timeout=30), param)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"messages": NaN}', b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    ],
    ids=["empty", "open", "list", "null", "not utf-8", "nan", "deep", "lone surrogate"],
)  # fmt: skip
def test_a_body_that_is_no_request_is_a_400(packaged: Server, data: bytes) -> None:
    answer = requests.post(f"{packaged.base_url}/chat/completions", data=data, timeout=30)
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_stream_options_need_a_stream(packaged: Server) -> None:
    body = {**CHAT, "stream_options": {"include_usage": True}}
    answer = requests.post(f"{packaged.base_url}/chat/completions", json=body, timeout=30)
    check(answer, "stream_options")


def test_the_other_streams_do_not_notice(packaged: Server) -> None:
    story = {"messages": [{"role": "user", "content": "Tell me a story."}], "temperature": 0}
    body = {**story, "max_tokens": 200, "ignore_eos": True}
    url = f"{packaged.base_url}/chat/completions"
    alone = requests.post(url, json=body, timeout=60).json()["choices"][0]["message"]
    with requests.post(url, json={**body, "stream": True}, stream=True, timeout=60) as streamed:
        for fields, _ in BAD_CHAT[:10]:
            requests.post(url, json={**CHAT, **fields}, timeout=30)
        lines = [line[6:] for line in streamed.iter_lines() if line.startswith(b"data: {")]
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines]
    assert "".join(d.get("content") or "" for d in deltas) == alone["content"]
