"""What a request says of tools: what is accepted, what is refused, and by which name."""

from __future__ import annotations

from typing import Any

import pytest

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.requests import ChatCompletionRequest, from_arguments
from mlc_llm.serve.request.tools import MAX_DEPTH, MAX_TOOLS, MAX_TOOLS_BYTES, ToolUse, tool_use

USER = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def function(name: str = "f", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def use(*tools: Any, **fields: Any) -> ToolUse | None:
    given = {"tools": list(tools)} if tools else {}
    request = from_arguments(ChatCompletionRequest, {"messages": [USER], **given, **fields})
    return tool_use(request)


def used(*tools: Any, **fields: Any) -> ToolUse:
    found = use(*tools, **fields)
    assert found is not None
    return found


def test_tools_may_be_called_when_nothing_else_is_said() -> None:
    found = used(function(parameters=SCHEMA, description="d", strict=True), function("g"))
    first, second = found.callable
    assert (first.name, first.description, first.parameters, first.strict) == (
        "f",
        "d",
        SCHEMA,
        True,
    )
    assert (second.parameters, second.description, second.strict) == ({}, "", False)
    assert (found.mode, found.parallel, found.is_enforced) == ("auto", True, True)


def test_templates_see_the_tools_as_they_were_sent_but_for_strict() -> None:
    sent = function(parameters=SCHEMA, strict=False, extra=1)
    (shown,) = used(sent).shown
    assert shown == function(parameters=SCHEMA, extra=1)
    assert list(shown["function"]) == ["name", "parameters", "extra"]


@pytest.mark.parametrize("fields", [{}, {"tool_choice": "none"}, {"tool_choice": "auto"}])
def test_no_tools_are_no_tools(fields: dict[str, Any]) -> None:
    assert use(**fields) is None
    assert use(tools=[], **fields) is None


def test_none_keeps_the_tools_from_the_model() -> None:
    assert use(function(), tool_choice="none") is None


def test_required_and_named_must_be_called() -> None:
    found = used(function("f"), function("g"), tool_choice="required")
    assert (found.mode, len(found.callable), found.parallel) == ("required", 2, True)
    found = used(function("f"), function("g"), tool_choice=function("g"))
    assert (found.mode, [t.name for t in found.callable]) == ("required", ["g"])
    assert len(found.shown) == 2
    assert not found.parallel


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_are_those_that_may_be_called(mode: str) -> None:
    allowed = {"mode": mode, "tools": [function("g")]}
    for choice in (
        {"type": "allowed_tools", "allowed_tools": allowed},
        {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "g"}]},
    ):
        found = used(function("f"), function("g"), tool_choice=choice)
        assert (found.mode, [t.name for t in found.callable]) == (mode, ["g"])
        assert len(found.shown) == 2


def test_calls_may_be_limited_to_one() -> None:
    assert not used(function(), parallel_tool_calls=False).parallel


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([{}], "tools.0.function"),
        ([{"type": "web_search"}], "tools.0"),
        ([{"type": "function"}], "tools.0.function"),
        ([{"type": "function", "function": 3}], "tools.0.function"),
        ([{"type": "function", "function": {}}], "tools.0.function.name"),
        ([function(), function()], "tools.1.function.name"),
        *(
            ([function(n)], "tools.0.function.name")
            for n in ("", "a b", 'a"', "a\n", "é", "x" * 129)
        ),
        ([function(3)], "tools.0.function.name"),  # type: ignore[arg-type]
        ([function(description=3)], "tools.0.function.description"),
        ([function(strict="yes")], "tools.0.function.strict"),
        ([function(parameters=3)], "tools.0.function.parameters"),
        ([function(parameters=[])], "tools.0.function.parameters"),
        ([function(parameters={"type": "string"})], "tools.0.function.parameters"),
        ([function(parameters={"type": ["object"]})], "tools.0.function.parameters"),
        ([function(parameters=deep(MAX_DEPTH))], "tools.0.function.parameters"),
        ([function(f"f{i}") for i in range(MAX_TOOLS + 1)], "tools"),
        ([function(description="x" * MAX_TOOLS_BYTES)], "tools"),
    ],
    ids=str,
)
def test_tools_that_are_none_are_refused_by_their_path(tools: list[Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        use(tools=tools)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "choice",
    [
        "",
        "always",
        {},
        {"type": "web_search"},
        {"type": "function"},
        {"type": "function", "function": {"name": "other"}},
        {"type": "function", "function": {"name": "f", "arguments": 1}},
        {"type": "function", "function": {"name": None}},
        {"type": "allowed_tools"},
        {"type": "allowed_tools", "allowed_tools": {"mode": "none", "tools": [function()]}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [3]}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [function("x")]}},
    ],
    ids=str,
)
def test_a_choice_that_is_none_is_refused(choice: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        use(function(), tool_choice=choice)
    assert str(caught.value.param).startswith("tool_choice")


@pytest.mark.parametrize("choice", ["required", function()])
def test_a_choice_needs_tools(choice: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        use(tool_choice=choice)
    assert caught.value.param == "tool_choice"
