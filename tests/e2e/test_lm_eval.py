"""What lm-evaluation-harness sends and how it reads the answers, against the float64 oracle.

The harness is too large to install for a test. These are the requests of `local-completions` with
the tokenizer of the server (`tokenizer_backend=auto`), and of `local-chat-completions`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from support.reference_text import open_oracle
from support.server import Server

BEGINNING = "Once upon a time"
CHOICES = (", there was a little girl.", " purple zebra seven.", ",")
TOLERANCE = 1e-3


def call(server: Server, path: str, body: dict[str, Any] | None = None) -> Any:
    method = "GET" if body is None else "POST"
    answer = requests.request(method, server.root + path, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def encode(server: Server, text: str) -> list[int]:
    tokens = call(server, "/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]
    assert isinstance(tokens, list)
    return tokens


def likelihoods(
    server: Server, texts: list[list[int]], beginnings: list[int]
) -> list[tuple[float, bool]]:
    """Of each text after so many tokens of it, and whether all of that is the likeliest text."""
    body = {
        "model": "", "prompt": texts, "temperature": 0, "max_tokens": 1, "logprobs": 1,
        "seed": 1234, "echo": True,
    }  # fmt: skip
    found = []
    choices = sorted(call(server, "/v1/completions", body)["choices"], key=lambda c: c["index"])
    for choice, beginning in zip(choices, beginnings, strict=True):
        tokens = choice["logprobs"]["token_logprobs"][beginning:-1]
        tops = choice["logprobs"]["top_logprobs"][beginning:-1]
        best = all(t == max(top.values()) for t, top in zip(tokens, tops, strict=True))
        found.append((sum(tokens), best))
    return found


def truth(folder: Path, tokens: list[int], beginning: int) -> tuple[float, bool]:
    logits = open_oracle(folder).logits(tokens)
    rows = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[beginning - 1 : -1]
    said = tokens[beginning:]
    return float(rows[np.arange(len(said)), said].sum()), bool((rows.argmax(-1) == said).all())


def test_the_server_tells_what_its_tokenizer_is(stories: Server, packaged: Server) -> None:
    info = call(stories, "/tokenizer_info")
    assert (info["bos_token"], info["eos_token"]) == ("<s>", "</s>")
    assert encode(stories, "<s>") == [1]
    assert "messages" in call(packaged, "/tokenizer_info")["chat_template"]


def test_choices_have_the_likelihoods_that_the_oracle_gives(
    stories: Server, stories_folder: Path
) -> None:
    beginning = len(encode(stories, BEGINNING))
    texts = [encode(stories, BEGINNING + choice) for choice in CHOICES]
    found = likelihoods(stories, texts, [beginning] * len(texts))
    for tokens, (likelihood, is_best) in zip(texts, found, strict=True):
        expected, best = truth(stories_folder, tokens, beginning)
        assert likelihood == pytest.approx(expected, abs=TOLERANCE)
        assert is_best == best
    assert found[2][1]


def test_a_whole_text_has_the_perplexity_that_the_oracle_gives(
    stories: Server, stories_folder: Path
) -> None:
    begin = encode(stories, call(stories, "/tokenizer_info")["bos_token"])
    tokens = begin + encode(stories, BEGINNING + CHOICES[0])
    ((likelihood, _),) = likelihoods(stories, [tokens], [1])
    assert likelihood == pytest.approx(truth(stories_folder, tokens, 1)[0], abs=TOLERANCE)


def test_texts_are_generated_until_a_string(stories: Server) -> None:
    prompts = [encode(stories, text) for text in (BEGINNING, "One day")]
    sampling = {"max_tokens": 20, "temperature": 0, "stop": ["\n", ".", "</s>"], "seed": 1234}
    body = {"model": "", "prompt": prompts, **sampling}
    choices = call(stories, "/v1/completions", body)["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    assert all(choice["text"] and "." not in choice["text"] for choice in choices)
    chat = {"messages": [{"role": "user", "content": BEGINNING}], "model": "", **sampling}
    message = call(stories, "/v1/chat/completions", chat)["choices"][0]["message"]
    assert isinstance(message["content"], str)
