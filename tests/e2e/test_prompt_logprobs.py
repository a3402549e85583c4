"""Likelihoods of prompts on a real model: what evaluation harnesses ask for, against the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from numpy.typing import NDArray

from support.reference_text import open_oracle
from support.server import Server

CONTEXT = [1, 403, 407, 261, 378, 432]
CONTINUATION = [383, 286, 261, 376]
TOLERANCE = 1e-3


def complete(server: Server, **body: Any) -> list[dict[str, Any]]:
    answer = requests.post(f"{server.base_url}/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    choices: list[dict[str, Any]] = answer.json()["choices"]
    return choices


@pytest.fixture(scope="module")
def truth(stories_folder: Path) -> NDArray[np.float64]:
    """log p(token | tokens before it) of the whole text, a row per token but the first."""
    logits = open_oracle(stories_folder).logits(CONTEXT + CONTINUATION)
    return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[:-1]


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_a_harness_gets_the_likelihood_of_a_continuation(
    stories: Server, truth: NDArray[np.float64], max_tokens: int
) -> None:
    tokens = CONTEXT + CONTINUATION
    other = [1, 403]
    request = {"prompt": [tokens, other], "max_tokens": max_tokens, "temperature": 0}
    choices = complete(stories, **request, logprobs=1, echo=True, seed=1234)
    assert [choice["index"] for choice in choices] == [0, 1]
    shown = choices[0]["logprobs"]
    assert len(shown["tokens"]) == len(tokens) + max_tokens
    assert shown["token_logprobs"][0] is None
    expected = truth[np.arange(len(tokens) - 1), tokens[1:]]
    found = shown["token_logprobs"][1 : len(tokens)]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    for row, top in zip(truth, shown["top_logprobs"][1 : len(tokens)], strict=True):
        assert max(top.values()) == pytest.approx(row.max(), abs=TOLERANCE)
    text = choices[0]["text"]
    for offset, token in zip(shown["text_offset"][2:], shown["tokens"][2:], strict=True):
        assert text[offset : offset + len(token)] == token


def test_a_prompt_that_was_cached_reads_the_same(stories: Server) -> None:
    tokens = (CONTEXT + CONTINUATION) * 6
    body = {"prompt": tokens, "max_tokens": 1, "temperature": 0, "logprobs": 2, "echo": True}
    first, second = (complete(stories, **body)[0] for _ in range(2))
    assert first == second


def test_a_streamed_echo_has_the_same_numbers(stories: Server) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 3, "logprobs": 1, "echo": True}
    whole = complete(stories, **body, temperature=0)[0]
    body |= {"stream": True, "temperature": 0}
    with requests.post(f"{stories.base_url}/completions", json=body, timeout=60) as answer:
        lines = [line[6:] for line in answer.text.splitlines() if line and "[DONE]" not in line]
    parts = [json.loads(line)["choices"][0] for line in lines]
    assert "".join(part["text"] for part in parts) == whole["text"]
    for field, values in whole["logprobs"].items():
        assert [v for part in parts for v in part["logprobs"][field]] == values


def test_prompt_logprobs_have_a_list_of_their_own(
    stories: Server, truth: NDArray[np.float64]
) -> None:
    tokens = CONTEXT + CONTINUATION
    (choice,) = complete(stories, prompt=tokens, max_tokens=1, prompt_logprobs=2)
    found = choice["prompt_logprobs"]
    assert found[0] is None
    for row, token, entry in zip(truth, tokens[1:], found[1:], strict=True):
        assert 2 <= len(entry) <= 3
        assert entry[str(token)]["logprob"] == pytest.approx(row[token], abs=TOLERANCE)
        assert entry[str(token)]["rank"] == 1 + int((row > row[token]).sum())
