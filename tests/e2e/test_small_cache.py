"""A KV cache smaller than the context window: what does not fit is refused, cut off or waits."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from support.server import Server

TOKENS = 64


@pytest.fixture(scope="module")
def small() -> Iterator[Server]:
    overrides = f"max_total_seq_length={TOKENS};max_num_sequence=4"
    with Server("--overrides", overrides) as server:
        yield server


def complete(server: Server, prompt: list[int], **fields: Any) -> requests.Response:
    body = {"prompt": prompt, "ignore_eos": True, **fields}
    return requests.post(f"{server.base_url}/completions", json=body, timeout=60)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_the_cache_cannot_hold_is_refused_by_its_limit(
    small: Server, stream: bool
) -> None:
    refused = complete(small, [5] * TOKENS, stream=stream)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert f"maximum context length is {TOKENS} tokens" in error["message"]


def test_an_answer_ends_with_length_where_the_cache_is_full(small: Server) -> None:
    for prompt in ([5], [5] * (TOKENS - 1)):
        answer = complete(small, prompt).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["total_tokens"] == TOKENS


def test_answers_that_do_not_fit_beside_each_other_take_turns(small: Server) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda k: complete(small, [k] * 9, n=2).json(), range(5, 11)))
    for answer in answers:
        assert [choice["finish_reason"] for choice in answer["choices"]] == ["length"] * 2
    assert requests.get(f"{small.root}/health", timeout=10).status_code == 200
