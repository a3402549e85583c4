"""Endpoints that generate nothing, on running servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from mlc_llm import __version__
from support.reference_text import open_oracle
from support.server import Server


def post(server: Server, path: str, **body: Any) -> Any:
    answer = requests.post(f"{server.root}{path}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_a_text_goes_to_tokens_and_back(packaged: Server, prefix: str) -> None:
    text = "Norway's capital is Oslo, \u65e5\u672c."
    found = post(packaged, f"{prefix}/tokenize", prompt=text, add_special_tokens=False)
    assert found["count"] == len(found["tokens"])
    back = post(packaged, f"{prefix}/detokenize", tokens=found["tokens"])
    assert back["prompt"] == back["content"] == text


def test_a_conversation_has_the_tokens_that_a_chat_answer_counts(packaged: Server) -> None:
    messages = [{"role": "user", "content": "What is the capital of Norway?"}]
    found = post(packaged, "/tokenize", messages=messages)
    answer = post(packaged, "/v1/chat/completions", messages=messages, max_tokens=1)
    assert answer["usage"]["prompt_tokens"] == found["count"]
    prompt = post(packaged, "/apply-template", messages=messages)["prompt"]
    assert messages[0]["content"] in prompt
    again = post(packaged, "/tokenize", prompt=prompt, add_special_tokens=False)
    assert again["tokens"] == found["tokens"]


def test_continuations_are_scored_as_the_oracle_does(stories: Server, stories_folder: Path) -> None:
    beginning, continuations = "Once upon a time", [", there", " zebra"]
    found = post(stories, "/score", text_1=beginning, text_2=continuations)
    oracle = open_oracle(stories_folder)
    first = post(stories, "/tokenize", prompt=beginning)["tokens"]
    for entry, continuation in zip(found["data"], continuations, strict=True):
        tokens = post(stories, "/tokenize", prompt=beginning + continuation)["tokens"]
        logits = oracle.logits(tokens)
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        places = np.arange(len(first) - 1, len(tokens) - 1)
        truth = logprobs[places, tokens[len(first) :]].sum()
        assert entry["score"] == pytest.approx(truth, abs=2e-3)
        assert entry["num_tokens"] == len(tokens) - len(first)
    assert found["data"][0]["score"] > found["data"][1]["score"]


def test_the_version_is_told(packaged: Server) -> None:
    answer = requests.get(f"{packaged.root}/version", timeout=10)
    assert answer.json() == {"version": __version__}
