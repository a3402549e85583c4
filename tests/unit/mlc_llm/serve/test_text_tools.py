"""Tokens, texts, prompts and likelihoods without generation, on a toy model."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import pytest

from mlc_llm.errors import BadRequest, EngineUnavailable, ModelNotFound, PromptTooLong
from mlc_llm.protocol.messages import Delta, Finished, PromptToken
from mlc_llm.protocol.requests import ChatCompletionRequest, from_arguments
from mlc_llm.protocol.text_tools import DetokenizeRequest, ScoreRequest, TokenizeRequest
from mlc_llm.serve import text_tools
from mlc_llm.serve.request.prepare import ServedModel
from mlc_llm.serve.text_tools import Scoring
from support.byte_model import READY, TEMPLATE, VOCAB, write_folder


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    return ServedModel.load(write_folder(tmp_path / "toy", chat_template=TEMPLATE), "toy")


def tokens(served: ServedModel, **fields: Any) -> list[int]:
    request = TokenizeRequest(**fields)
    return asyncio.run(text_tools.tokenize(request, served, READY)).tokens


def letters(text: str) -> list[int]:
    """The toy's tokens of a text that has no word of it: its bytes, a blank before them."""
    return [1, *(3 + byte for byte in f"\u2581{text}".encode())]


def test_a_text_begins_with_the_models_first_token_unless_told_otherwise(
    model: ServedModel,
) -> None:
    assert tokens(model, prompt="Hello") == [1, 259]
    assert tokens(model, prompt="Hello", add_special_tokens=False) == [259]
    assert tokens(model, content="Hello") == [259]
    assert tokens(model, content="Hello", add_special=True) == [1, 259]
    assert tokens(model, prompt="") == [1]


def test_tokens_have_names(model: ServedModel) -> None:
    request = TokenizeRequest(prompt="Hello", return_token_strs=True)
    found = asyncio.run(text_tools.tokenize(request, model, READY))
    assert found.token_strs == ["<s>", "\u2581Hello"]
    assert (found.count, found.max_model_len) == (2, 32)


def test_a_conversation_is_tokenized_as_a_chat_request_is(model: ServedModel) -> None:
    fields = {"messages": [{"role": "user", "content": "Hello"}]}
    chat = from_arguments(ChatCompletionRequest, fields)
    request = from_arguments(TokenizeRequest, fields)
    found = asyncio.run(text_tools.tokenize_chat(request, chat, model, READY))
    assert found.tokens == [1, 259]
    prompt = asyncio.run(text_tools.apply_template(chat, model, READY)).prompt
    assert prompt == "<s>Hello"


def test_tokens_become_text(model: ServedModel) -> None:
    found = asyncio.run(text_tools.detokenize(DetokenizeRequest(tokens=[1, 259]), model, READY))
    assert (found.prompt, found.content) == ("<s> Hello", "<s> Hello")
    assert (
        asyncio.run(text_tools.detokenize(DetokenizeRequest(tokens=[]), model, READY)).prompt == ""
    )


@pytest.mark.parametrize(
    "ids", [[-1], [VOCAB], [2**70], [1] * (text_tools.MAX_TOKENS + 1)], ids=len
)
def test_tokens_that_do_not_exist_are_refused(model: ServedModel, ids: list[int]) -> None:
    with pytest.raises(BadRequest) as caught:
        asyncio.run(text_tools.detokenize(DetokenizeRequest(tokens=ids), model, READY))
    assert caught.value.param == "tokens"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, BadRequest),
        ({"prompt": "\ud800"}, BadRequest),
        ({"prompt": "x" * (65 * text_tools.MAX_TOKENS)}, PromptTooLong),
        ({"prompt": "x", "model": "other"}, ModelNotFound),
    ],
    ids=["none", "surrogate", "long", "model"],
)
def test_a_text_that_cannot_be_read_is_refused(
    model: ServedModel, fields: dict[str, Any], error: type[BadRequest]
) -> None:
    with pytest.raises(error):
        tokens(model, **fields)


def scoring(model: ServedModel, first: Any, second: Any) -> Scoring:
    request = ScoreRequest(text_1=first, text_2=second)
    return asyncio.run(text_tools.prepare_score(request, model, READY, "score-1"))


def ids(found: Scoring) -> list[list[int]]:
    return [list(struct.unpack(f"<{len(s.prompt) // 4}i", s.prompt)) for s in found.submits]


def test_continuations_share_a_beginning_or_have_their_own(model: ServedModel) -> None:
    found = scoring(model, "ab", ["!", "cd"])
    assert ids(found) == [letters("ab!"), letters("abcd")]
    assert found.starts == (6, 6)
    assert [s.request_id for s in found.submits] == ["score-1-0", "score-1-1"]
    assert {s.generation.max_tokens for s in found.submits} == {0}
    assert ids(scoring(model, ["a", "b"], ["!", "?"])) == [letters("a!"), letters("b?")]


def test_blanks_before_a_continuation_are_a_part_of_it(model: ServedModel) -> None:
    assert scoring(model, "ab ", "c").starts == scoring(model, "ab", " c").starts
    assert ids(scoring(model, "ab ", "c")) == ids(scoring(model, "ab", " c"))


def test_a_token_of_both_texts_counts_for_the_continuation(model: ServedModel) -> None:
    found = scoring(model, "Hell", "o")
    assert (ids(found), found.starts) == ([[1, 259]], (1,))


def test_a_text_may_be_scored_from_its_beginning(model: ServedModel) -> None:
    found = scoring(model, "", "Hello")
    assert (ids(found), found.starts) == ([[1, 259]], (1,))


@pytest.mark.parametrize(
    ("first", "second", "param"),
    [
        ("a", [], "text_2"),
        ("a", ["b"] * 1025, "text_2"),
        ([], "b", "text_1"),
        (["a", "b"], ["c"], "text_1"),
        ("a", "", "text_2"),
        ("a", "b" * 40, "text_2"),
    ],
    ids=str,
)
def test_texts_that_cannot_be_scored_are_refused(
    model: ServedModel, first: Any, second: Any, param: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        scoring(model, first, second)
    assert caught.value.param == param


def test_no_more_is_scored_than_is_held_in_memory(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_tools, "MAX_READINGS", 100)
    scoring(model, "a", ["b"] * 16)
    with pytest.raises(BadRequest, match="100 tokens"):
        scoring(model, "a", ["b"] * 17)


def test_a_score_is_the_sum_over_the_continuation(model: ServedModel) -> None:
    found = scoring(model, "a", ["!!", "!"])
    read = (
        PromptToken(1, b"", None, 0),
        *(PromptToken(5, b"", -5.0, 9),) * 4,
        PromptToken(36, b"", -0.5, 1),
        PromptToken(36, b"", -2.0, 2),
    )
    deltas = [
        Delta("score-1-1", 0, "", 0, prompt=read[:6]),
        Delta("score-1-0", 0, "", 0, prompt=read),
    ]
    ends = [Finished("score-1-0", 7, 0), Finished("score-1-1", 6, 0)]
    response = text_tools.scores(found, deltas, ends)
    assert [(s.score, s.num_tokens, s.is_greedy) for s in response.data] == [
        (-2.5, 2, False),
        (-0.5, 1, True),
    ]
    assert (response.usage.prompt_tokens, response.usage.total_tokens) == (13, 13)
    with pytest.raises(EngineUnavailable):
        text_tools.scores(found, deltas[:1], ends)
