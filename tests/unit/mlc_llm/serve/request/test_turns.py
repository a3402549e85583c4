"""The messages that clients send, as the turns that templates get."""

from __future__ import annotations

from typing import Any

import pytest

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.requests import ChatCompletionRequest, from_arguments
from mlc_llm.serve.request.turns import turns_of


def contents(*messages: dict[str, Any]) -> list[str | None]:
    request = from_arguments(ChatCompletionRequest, {"messages": list(messages)})
    return [turn.content for turn in turns_of(request.messages, 100)]


def test_an_assistant_that_said_nothing_has_an_empty_text() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": "{}"}}
    assert contents(
        {"role": "assistant"},
        {"role": "assistant", "content": None, "refusal": "No.", "tool_calls": []},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ) == ["", "", None]


def test_parts_are_texts_by_whatever_name() -> None:
    parts = [
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        {"type": "input_text", "text": "b"},
        {"type": "output_text", "text": "c", "annotations": []},
        {"type": "refusal", "refusal": "d"},
    ]
    assert contents({"role": "assistant", "content": parts}) == ["abcd"]


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "refusal", "text": "a"}, "messages.0.content.0.refusal"),
        ({"type": "input_text", "refusal": "a"}, "messages.0.content.0.text"),
        ({"type": "input_audio"}, "messages.0.content.0"),
    ],
)
def test_a_part_without_text_is_refused_by_its_path(part: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        contents({"role": "user", "content": [part]})
    assert caught.value.param == param
