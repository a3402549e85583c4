"""Ranges of request fields and the defaults of what is not given."""

from __future__ import annotations

from typing import Any

import pytest

from mlc_llm.errors import BadRequest
from mlc_llm.models.folder import GenerationDefaults
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import PROTOCOL_VERSION, Ready
from mlc_llm.protocol.ranges import MAX_BIASED_TOKENS, MAX_STOP_STRINGS, MAX_STOP_TOKENS, VALUES
from mlc_llm.protocol.requests import ChatCompletionRequest, CompletionRequest, from_arguments
from mlc_llm.serve.request.validate import check_chat, generation_config
from mlc_workers.sampling.limits import check_generation

READY = Ready(PROTOCOL_VERSION, 1, 512, 4, 4096, 256, 128)
DEFAULTS = GenerationDefaults(temperature=0.6, top_p=0.9, top_k=50)
USER = {"role": "user", "content": "hi"}


def chat(**fields: Any) -> GenerationConfig:
    request = from_arguments(ChatCompletionRequest, {"messages": [USER], **fields})
    check_chat(request)
    ends = {"stop_strs": ["[INST]"], "stop_token_ids": [2], "special_tokens": {"<eot>": 9}}
    return generation_config(request, DEFAULTS, READY, **ends)


def complete(**fields: Any) -> GenerationConfig:
    request = from_arguments(CompletionRequest, {"prompt": "x", **fields})
    return generation_config(request, DEFAULTS, READY)


def test_what_is_not_given_comes_from_the_model() -> None:
    config = chat()
    assert (config.temperature, config.top_p, config.top_k) == (0.6, 0.9, 50)
    assert (config.max_tokens, config.n, config.seed) == (-1, 1, None)
    assert (config.stop_strs, config.stop_token_ids) == (("[INST]",), (2,))


def test_what_is_given_wins_even_when_it_is_zero() -> None:
    config = chat(temperature=0, top_p=1, top_k=0, seed=0)
    assert (config.temperature, config.top_p, config.top_k, config.seed) == (0, 1, -1, 0)


def test_stops_of_the_request_join_the_models() -> None:
    config = chat(stop=["a", "[INST]"], stop_token_ids=[2, 3])
    assert config.stop_strs == ("a", "[INST]")
    assert config.stop_token_ids == (2, 3)
    assert chat(stop="a").stop_strs == ("a", "[INST]")


def test_a_stop_string_that_names_a_special_token_stops_at_the_token() -> None:
    assert chat(stop="<eot>").stop_token_ids == (9, 2)


def test_a_special_request_is_told_where_the_numbers_are() -> None:
    chat(debug_config={"pinned_system_prompt": True, "special_request": None})
    with pytest.raises(BadRequest, match="GET /metrics") as caught:
        chat(debug_config={"special_request": "query_engine_metrics"})
    assert caught.value.param == "debug_config.special_request"


@pytest.mark.parametrize("fields", [{"ignore_eos": True}, {"debug_config": {"ignore_eos": True}}])
def test_ignore_eos_leaves_out_the_models_own_stops(fields: dict[str, Any]) -> None:
    config = chat(stop="a", **fields)
    assert config.ignore_eos
    assert (config.stop_strs, config.stop_token_ids) == (("a",), ())


def test_other_servers_names_of_a_field_mean_the_same() -> None:
    for name in ("n_predict", "max_new_tokens"):
        assert chat(**{name: 3}).max_tokens == 3
        assert chat(**{name: 3, "max_tokens": 4}).max_tokens == 4
        assert chat(**{name: -1}).max_tokens == -1
    assert chat(repeat_penalty=1.5).repetition_penalty == 1.5
    assert chat(repeat_penalty=1.5, repetition_penalty=1.25).repetition_penalty == 1.25
    assert chat(max_tokens=-1, use_beam_search=False).max_tokens == -1


def test_the_newer_name_of_max_tokens_wins() -> None:
    assert chat(max_tokens=5, max_completion_tokens=7).max_tokens == 7


def test_more_tokens_than_the_context_holds_are_as_many_as_it_holds() -> None:
    assert chat(max_tokens=2**40).max_tokens == 256


def test_an_echo_may_come_without_new_tokens() -> None:
    assert complete(echo=True, max_tokens=0).max_tokens == 0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (False, 0)),
        ({"logprobs": False}, (False, 0)),
        ({"logprobs": True}, (True, 0)),
        ({"logprobs": True, "top_logprobs": 5}, (True, 5)),
        ({"logprobs": 0}, (True, 0)),
        ({"logprobs": 5}, (True, 5)),
    ],
)
def test_logprobs_are_a_flag_or_a_number(
    fields: dict[str, Any], expected: tuple[bool, int]
) -> None:
    for config in (chat(**fields), complete(**fields)):
        assert (config.logprobs, config.top_logprobs) == expected


NAN, INFINITY = float("nan"), float("inf")
BAD: list[dict[str, Any]] = [
    *({"temperature": value} for value in (-0.1, 2.1, 1e30, NAN, INFINITY)),
    *({"top_p": value} for value in (0, -1, 1.1, NAN)),
    *({"min_p": value} for value in (-0.1, 1.1)),
    *({"frequency_penalty": value} for value in (-2.1, 2.1, NAN)),
    *({"presence_penalty": value} for value in (-2.1, 2.1)),
    *({"repetition_penalty": value} for value in (0, 1e-300, -1, INFINITY)),
    *({"top_k": value} for value in (-5, 10**30, 10**400)),
    *({"n": value} for value in (0, -1, 129, 10**6)),
    *({"max_tokens": value} for value in (0, -2, 2**70)),
    *({"n_predict": value} for value in (0, -2)),
    {"max_new_tokens": 0},
    *({"repeat_penalty": value} for value in (0, -1)),
    {"use_beam_search": True},
    {"grammar": "root ::= nothing"},
    {"json_schema": "no JSON"},
    *({"max_completion_tokens": value} for value in (0, -1)),
    *({"seed": value} for value in (2**63, -(2**63) - 1)),
    *({"logprobs": value} for value in (-1, 21)),
    *({"top_logprobs": value} for value in (-1, 3, 21)),
    *({"stop": value} for value in ("", [""], ["a"] * 17, "x" * 1001, "\ud800")),
    *({"stop_token_ids": value} for value in ([512], [-1], [1] * 129)),
    *({"logit_bias": value} for value in ({512: 1}, {-1: 1}, {1: 101}, {1: NAN})),
    {"logit_bias": dict.fromkeys(range(1025), 0)},
    *({"min_tokens": value} for value in (-1, 2**70)),
    {"stream_options": {"include_usage": True}},
    {"response_format": {"type": "riddle"}},
    {"guided_regex": "a" * 10_000},
    *({"reasoning_effort": value} for value in ("", "a lot")),
    *({"thinking_token_budget": value} for value in (-1, 2**63)),
    {"messages": []},
]


@pytest.mark.parametrize("fields", BAD, ids=str)
def test_a_value_out_of_range_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        chat(**fields)
    assert caught.value.param == next(iter(fields))
    assert f"`{caught.value.param}`" in caught.value.message


@pytest.mark.parametrize("fields", [{"best_of": 1, "n": 2}, {"best_of": 129}, {"max_tokens": 0}])
def test_a_completion_is_checked_for_its_own_fields(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        complete(**fields)
    assert caught.value.param == next(iter(fields))


def test_more_tokens_at_least_than_at_most_are_refused() -> None:
    with pytest.raises(BadRequest, match="min_tokens"):
        chat(min_tokens=5, max_tokens=4)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function"}], "tool_choice": "none"},
        {"tools": [], "tool_choice": "auto"},
        {"response_format": {"type": "text"}},
        {"stream": True, "stream_options": {}},
        {"user": "me", "n": 4, "temperature": 2, "top_p": 1e-9, "seed": -(2**63)},
    ],
)
def test_what_changes_nothing_or_is_just_in_range_is_accepted(fields: dict[str, Any]) -> None:
    chat(**fields)


def test_best_of_may_equal_n() -> None:
    assert complete(best_of=2, n=2).n == 2


ASKED = {field: asked for field, (_, asked) in VALUES.items() if asked is not None}


def edges(field: str) -> list[float]:
    """Both ends of a field's range, what lies just beyond, and the middle."""
    allowed = ASKED[field]
    low, high = allowed.low, min(allowed.high, 1e6)
    if field in ("top_k", "n", "min_tokens", "top_logprobs", "prompt_logprobs"):
        return [int(low) - 1, int(low), int(low + high) // 2, int(high), int(high) + 1]
    return [low - 1e-9, low, low + 1e-9, (low + high) / 2, high, high + 1e-9]


@pytest.mark.parametrize("field", ASKED)
def test_what_passes_here_passes_in_the_engine(field: str) -> None:
    passed = 0
    for value in edges(field):
        fields = {field: value, **({"logprobs": True} if field == "top_logprobs" else {})}
        try:
            config = complete(**fields)
        except BadRequest:
            continue
        assert check_generation(config, READY.vocab_size) is None
        passed += 1
    assert passed


def test_the_longest_lists_that_pass_here_pass_in_the_engine() -> None:
    config = chat(
        stop=[f"s{i}" for i in range(MAX_STOP_STRINGS)],
        stop_token_ids=list(range(MAX_STOP_TOKENS)),
        logit_bias={str(i): 100 for i in range(min(MAX_BIASED_TOKENS, READY.vocab_size))},
    )
    assert check_generation(config, READY.vocab_size) is None
