"""Calls of tools and their results in the conversation belong together."""

from __future__ import annotations

from typing import Any

import pytest

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.requests import ChatMessage, FunctionCall, ToolCall
from mlc_llm.serve.request.history import check_history

USER = ChatMessage(role="user", content="hi")


def calls(*ids: str | None, role: str = "assistant") -> ChatMessage:
    found = [ToolCall(function=FunctionCall(name="f", arguments="{}"), id=i) for i in ids]
    return ChatMessage(role=role, tool_calls=found)


def result(call_id: str | None = None) -> ChatMessage:
    return ChatMessage(role="tool", content="7", tool_call_id=call_id)


@pytest.mark.parametrize(
    "messages",
    [
        [USER],
        [USER, calls("a"), result("a"), USER],
        [USER, calls("a", "b"), result("b"), result("a")],
        [USER, calls("a"), result("a"), calls("a"), result("a")],
        [USER, calls(None, None), result(), result("x")],
    ],
)
def test_every_call_with_its_result_is_a_history(messages: list[ChatMessage]) -> None:
    check_history(messages)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([USER, result("a")], "messages.1.tool_call_id"),
        ([USER, calls("a"), result("b")], "messages.2.tool_call_id"),
        ([USER, calls("a"), result()], "messages.2.tool_call_id"),
        ([USER, calls("a"), result("a"), result("a")], "messages.3.tool_call_id"),
        ([USER, calls("a"), USER], "messages.1.tool_calls"),
        ([USER, calls("a")], "messages.1.tool_calls"),
        ([USER, calls("a", "a"), result("a")], "messages.1.tool_calls"),
        ([calls("a", role="user"), result("a")], "messages.0.tool_calls"),
    ],
)
def test_what_does_not_belong_together_is_refused(messages: list[ChatMessage], param: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        check_history(messages)
    assert caught.value.param == param
