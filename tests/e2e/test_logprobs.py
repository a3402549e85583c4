"""Log-probabilities of sampled tokens on a real model: of the raw distribution, by the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tokenizers
from numpy.typing import NDArray

from support.reference_text import open_oracle
from support.server import Server

ALLOWED = [403, 407, 261, 378, 432, 383, 286, 376]
"""Few enough that what is sampled is often not among the likeliest."""
CHANGED: dict[str, Any] = {
    "temperature": 1.7,
    "frequency_penalty": 1.5,
    "repetition_penalty": 1.3,
    "logit_bias": {"403": 5},
    "allowed_token_ids": ALLOWED,
    "seed": 5,
    "max_tokens": 12,
    "ignore_eos": True,
}
"""Everything that changes what is sampled, and must not change what is reported."""
PROMPT = [1, 403, 407, 261, 378]
MESSAGES = [{"role": "user", "content": "Once upon a time"}]
TOLERANCE = 1e-3


class Truth:
    """The oracle and the texts of its tokens."""

    def __init__(self, folder: Path) -> None:
        self.oracle = open_oracle(folder)
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.ids = {self.text(token): token for token in ALLOWED}

    def text(self, token: int) -> str:
        return self.tokenizer.id_to_token(token).replace("\u2581", " ")

    def rows(self, prompt: list[int], shown: list[str]) -> tuple[list[int], NDArray[np.float64]]:
        """The sampled tokens, and log p of every token in each one's place."""
        sampled = [self.ids[text] for text in shown]
        logits = self.oracle.logits(prompt + sampled)[len(prompt) - 1 : -1]
        return sampled, logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def truth(stories_folder: Path) -> Truth:
    return Truth(stories_folder)


def post(server: Server, path: str, **body: Any) -> dict[str, Any]:
    answer = requests.post(f"{server.root}{path}", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def streamed(server: Server, path: str, **body: Any) -> list[dict[str, Any]]:
    """What the chunks say of each token."""
    answer = requests.post(f"{server.root}{path}", json={**body, "stream": True}, timeout=120)
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line[:7] == "data: {"]
    return [c["logprobs"] for e in events for c in e["choices"] if c["logprobs"]]


@pytest.mark.parametrize("num_top", [0, 5])
def test_a_chat_reports_the_raw_distribution(stories: Server, truth: Truth, num_top: int) -> None:
    prompt = post(stories, "/tokenize", messages=MESSAGES)["tokens"]
    body = {**CHANGED, "messages": MESSAGES, "logprobs": True, "top_logprobs": num_top}
    content = post(stories, "/v1/chat/completions", **body)["choices"][0]["logprobs"]["content"]
    sampled, rows = truth.rows(prompt, [entry["token"] for entry in content])
    assert len(sampled) == CHANGED["max_tokens"]
    for entry, token, row in zip(content, sampled, rows, strict=True):
        assert entry["logprob"] == pytest.approx(row[token], abs=TOLERANCE)
        assert bytes(entry["bytes"]).decode() == entry["token"]
        top = [other["logprob"] for other in entry["top_logprobs"]]
        np.testing.assert_allclose(top, np.sort(row)[::-1][:num_top], atol=TOLERANCE)
        assert top == sorted(top, reverse=True)
    parts = streamed(stories, "/v1/chat/completions", **body)
    assert [entry for part in parts for entry in part["content"]] == content


@pytest.mark.parametrize("num_top", [0, 5])
def test_a_completion_reports_the_raw_distribution(
    stories: Server, truth: Truth, num_top: int
) -> None:
    body = {**CHANGED, "prompt": PROMPT, "logprobs": num_top}
    choice = post(stories, "/v1/completions", **body)["choices"][0]
    shown = choice["logprobs"]
    sampled, rows = truth.rows(PROMPT, shown["tokens"])
    expected = rows[np.arange(len(sampled)), sampled]
    np.testing.assert_allclose(shown["token_logprobs"], expected, atol=TOLERANCE)
    for tops, text, row in zip(
        shown["top_logprobs"] or [], shown["tokens"], rows, strict=num_top > 0
    ):
        likeliest = sorted((v for t, v in tops.items() if t != text), reverse=True)
        others = np.delete(row, truth.ids[text])
        np.testing.assert_allclose(
            likeliest, np.sort(others)[::-1][: len(likeliest)], atol=TOLERANCE
        )
        assert len(tops) >= num_top
    assert "".join(shown["tokens"]) == choice["text"]
    parts = streamed(stories, "/v1/completions", **body)
    for field in ("tokens", "token_logprobs", "text_offset"):
        assert [value for part in parts for value in part[field]] == shown[field]
