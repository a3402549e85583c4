"""Log-probabilities of prompts in the forms that clients read."""

from __future__ import annotations

import pytest

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.messages import Delta, Finished, FinishReason, PromptToken, TokenLogprob
from mlc_llm.protocol.requests import CompletionRequest, from_arguments
from mlc_llm.serve.answer.chunks import CompletionChunks
from mlc_llm.serve.answer.delta import Answer
from mlc_llm.serve.answer.fold import Fold
from mlc_llm.serve.request.validate import generation_config

from ..request.test_validate import DEFAULTS, READY

READ = (
    PromptToken(1, b"<s>", None, 0),
    PromptToken(5, b" Once", -2.0, 3, ((7, b" The", -0.5),)),
    PromptToken(6, b" upon", -0.1, 1, ((6, b" upon", -0.1),)),
)
TOLD = [Delta("x", 0, "", 0, prompt=READ[:1]), Delta("x", 0, "", 0, prompt=READ[1:])]
LAST = Delta("x", 0, " a", 1, FinishReason.LENGTH, (TokenLogprob(b" a", -0.2, ((b" a", -0.2),)),))


def an_answer(**changes: object) -> Answer:
    fields = {"id": "x", "model": "m", "created": 7, "request_ids": ("x",)} | changes
    return Answer(**fields)  # type: ignore[arg-type]


def test_an_echo_begins_with_the_prompts_tokens() -> None:
    fold = Fold(an_answer(echo=("Once upon",), logprobs=True))
    fold.add([*TOLD, LAST])
    (choice,) = fold.completion().choices
    assert choice.text == "Once upon a"
    shown = choice.logprobs
    assert shown is not None
    assert shown.tokens == ["<s>", " Once", " upon", " a"]
    assert shown.token_logprobs == [None, -2.0, -0.1, -0.2]
    assert shown.top_logprobs == [
        None,
        {" The": -0.5, " Once": -2.0},
        {" upon": -0.1},
        {" a": -0.2},
    ]
    assert shown.text_offset == [0, 0, 4, 9]


def test_a_stream_tells_of_the_prompt_with_its_first_chunk() -> None:
    chunks = CompletionChunks(an_answer(echo=("Once upon",), logprobs=True))
    assert chunks.add(TOLD) == []
    (chunk,) = chunks.add([LAST])
    assert chunk.choices[0].text == "Once upon a"
    assert chunk.choices[0].logprobs is not None
    assert chunk.choices[0].logprobs.text_offset == [0, 0, 4, 9]


def test_of_two_tokens_with_one_text_the_likelier_is_shown() -> None:
    fold = Fold(an_answer(logprobs=True))
    twice = ((b"a", -0.5), (b"a", -3.0))
    fold.add([Delta("x", 0, "b", 1, logprobs=(TokenLogprob(b"b", -4.0, twice),))])
    shown = fold.completion().choices[0].logprobs
    assert shown is not None
    assert shown.top_logprobs == [{"a": -0.5, "b": -4.0}]


def test_prompt_logprobs_are_named_by_token_id() -> None:
    fold = Fold(an_answer(prompt_logprobs=True))
    fold.add([*TOLD, LAST], [Finished("x", 3, 1)])
    plain = fold.completion().model_dump()["choices"][0]
    assert plain["prompt_logprobs"] == [
        None,
        {
            "5": {"logprob": -2.0, "rank": 3, "decoded_token": " Once"},
            "7": {"logprob": -0.5, "rank": 1, "decoded_token": " The"},
        },
        {"6": {"logprob": -0.1, "rank": 1, "decoded_token": " upon"}},
    ]
    assert plain["logprobs"] is None
    assert fold.chat().model_dump()["prompt_logprobs"] == plain["prompt_logprobs"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"echo": True}, None),
        ({"logprobs": 3}, None),
        ({"echo": True, "logprobs": 0}, 0),
        ({"echo": True, "logprobs": 3, "prompt_logprobs": 1}, 3),
        ({"prompt_logprobs": 0}, 0),
    ],
    ids=str,
)
def test_the_prompt_is_read_only_when_its_numbers_are_shown(
    fields: dict[str, object], expected: int | None
) -> None:
    request = from_arguments(CompletionRequest, {"prompt": "x", **fields})
    assert generation_config(request, DEFAULTS, READY).prompt_logprobs == expected


@pytest.mark.parametrize(("value", "stream"), [(21, False), (-1, False), (1, True)])
def test_what_cannot_be_reported_is_refused_by_name(value: int, stream: bool) -> None:
    fields = {"prompt": "x", "prompt_logprobs": value, "stream": stream}
    request = from_arguments(CompletionRequest, fields)
    with pytest.raises(BadRequest) as caught:
        generation_config(request, DEFAULTS, READY)
    assert caught.value.param == "prompt_logprobs"
