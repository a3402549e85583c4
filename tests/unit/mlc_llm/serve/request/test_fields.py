"""Fields of one endpoint and of the prompt, and the tokens that a request forbids."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.messages import PROTOCOL_VERSION, Ready
from mlc_llm.protocol.requests import ChatCompletionRequest, CompletionRequest, from_arguments
from mlc_llm.protocol.service_fields import ServiceFields
from mlc_llm.serve.request.fields import (
    FILL_IN_MIDDLE,
    check_text_only,
    goes_on,
    num_candidates,
    render_options,
    truncated,
    with_suffix,
)
from mlc_llm.serve.request.restrict import allowed_tokens, bad_words

READY = Ready(PROTOCOL_VERSION, 1, 300, 4, 4096, 256, 128)
USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "It is"}


def chat(*messages: Any, **fields: Any) -> ChatCompletionRequest:
    return from_arguments(ChatCompletionRequest, {"messages": messages or [USER], **fields})


def complete(**fields: Any) -> CompletionRequest:
    return from_arguments(CompletionRequest, {"prompt": "x", **fields})


@pytest.mark.parametrize("value", [True, "auto", {"a": [1]}, 7])
def test_fields_of_a_service_may_hold_anything(value: Any) -> None:
    for field in ServiceFields.__struct_fields__:
        chat(**{field: value})
        complete(**{field: value})


@pytest.mark.parametrize(
    "fields",
    [
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "alloy"}},
        {"web_search_options": {}},
        {"chat_template": "{{ messages }}"},
        {"functions": [{"name": "f"}]},
        {"function_call": {"name": "f"}},
    ],
    ids=str,
)
def test_what_only_another_kind_of_model_can_do_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        check_text_only(chat(**fields))
    assert caught.value.param == next(iter(fields))


def test_text_is_a_modality() -> None:
    check_text_only(chat(modalities=["text"], functions=[], function_call="none"))


def test_the_prompt_ends_with_the_assistants_turn_unless_told_otherwise() -> None:
    assert render_options(chat()).begin_answer
    assert not render_options(chat(add_generation_prompt=False)).begin_answer
    options = render_options(chat(USER, ASSISTANT, continue_final_message=True))
    assert options.continue_last


@pytest.mark.parametrize(
    "messages", [[USER], [{"role": "assistant", "content": ""}], [{"role": "assistant"}]], ids=str
)
def test_only_a_text_of_the_assistant_can_be_continued(messages: list[Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        render_options(chat(*messages, continue_final_message=True))
    assert caught.value.param == "continue_final_message"


def test_a_message_cannot_be_both_continued_and_followed_by_a_new_one() -> None:
    both = {"continue_final_message": True, "add_generation_prompt": True}
    with pytest.raises(BadRequest):
        render_options(chat(USER, ASSISTANT, **both))


def test_variables_of_the_template_must_not_replace_its_messages() -> None:
    kwargs = {"enable_thinking": False}
    assert render_options(chat(chat_template_kwargs=kwargs)).variables == kwargs
    with pytest.raises(BadRequest) as caught:
        render_options(chat(chat_template_kwargs={"messages": []}))
    assert caught.value.param == "chat_template_kwargs"


def test_completions_and_continued_messages_go_on_from_a_text() -> None:
    assert goes_on(complete())
    assert goes_on(chat(USER, ASSISTANT, continue_final_message=True))
    assert not goes_on(chat())


def test_as_many_candidates_are_generated_as_best_of_says() -> None:
    assert num_candidates(complete(n=2)) == 2
    assert num_candidates(complete(n=2, best_of=5)) == 5
    assert num_candidates(complete(best_of=1, stream=True)) == 1
    with pytest.raises(BadRequest) as caught:
        num_candidates(complete(best_of=2, stream=True))
    assert caught.value.param == "best_of"


def test_a_truncated_prompt_keeps_its_end() -> None:
    ids = list(range(10))
    assert truncated(ids, None, 5) == ids
    assert truncated(ids, 3, 5) == [7, 8, 9]
    assert truncated(ids, 30, 5) == ids
    assert truncated(ids, -1, 5) == ids[-5:]
    with pytest.raises(BadRequest):
        truncated(ids, 0, 5)


def test_a_suffix_is_for_models_that_fill_in_the_middle() -> None:
    for names in FILL_IN_MIDDLE:
        tokens = {name: 100 + i for i, name in enumerate(names)}
        assert with_suffix([1, 2], [3], tokens) == [100, 1, 2, 101, 3, 102]
    with pytest.raises(BadRequest) as caught:
        with_suffix([1], [2], {"<s>": 1})
    assert caught.value.param == "suffix"


def test_allowed_tokens_are_sorted_and_exist() -> None:
    assert allowed_tokens(complete(), READY) == b""
    both = allowed_tokens(complete(allowed_token_ids=[9, 1, 9]), READY)
    assert struct.unpack("<2i", both) == (1, 9)
    for bad in ([], [300], [-1], [2**70]):
        with pytest.raises(BadRequest) as caught:
            allowed_tokens(complete(allowed_token_ids=bad), READY)
        assert caught.value.param == "allowed_token_ids"


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_a_bad_word_is_forbidden_with_and_without_a_space_before_it() -> None:
    found = bad_words(complete(bad_words=["ab", " c"]), READY, letters)
    assert found == ((97, 98), (32, 97, 98), (32, 99))


def test_a_word_that_the_model_cannot_write_needs_no_ban() -> None:
    assert bad_words(complete(bad_words=["\u65e5"]), READY, letters) == ()


@pytest.mark.parametrize(
    "words", [[""], ["  "], ["x" * 1001], ["x"] * 129, ["x" * 600, "y" * 600], ["\ud800"]], ids=len
)
def test_bad_words_are_bounded(words: list[str]) -> None:
    with pytest.raises(BadRequest) as caught:
        bad_words(complete(bad_words=words), READY, letters)
    assert caught.value.param == "bad_words"
