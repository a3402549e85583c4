"""The tools of a request and how they may be used: checked, and read into values.

Pure. Knows what OpenAI's and MLC LLM's clients send; nothing of templates, grammars or readers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.requests import ChatCompletionRequest
from mlc_llm.tools.tool import Tool

MAX_TOOLS = 256
MAX_TOOLS_BYTES = 1 << 20
"""Of all tools together, as JSON."""
MAX_NAME = 128
MAX_DEPTH = 64
NAME = re.compile(rf"[A-Za-z0-9_.-]{{1,{MAX_NAME}}}")


class ToolUse(Struct, frozen=True):
    """What the model may do with the tools."""

    shown: tuple[dict[str, Any], ...]
    """What the chat template is given: the tools as they were sent, without `strict`."""
    callable: tuple[Tool, ...]
    """Those that it may call."""
    mode: Literal["auto", "required"]
    """required: it must call at least one."""
    parallel: bool
    """Whether one answer may hold several calls."""
    is_named: bool = False
    """Whether the request names the one function to call."""

    @property
    def is_enforced(self) -> bool:
        """Whether what the model writes must be held to something."""
        return self.mode == "required" or any(tool.strict for tool in self.callable)


def tool_use(request: ChatCompletionRequest) -> ToolUse | None:
    """None: the model is told of no tools. Raises BadRequest naming the field at fault."""
    tools = tuple(_tools(request.tools or ()))
    choice = request.tool_choice
    if choice is None or choice in ("auto", "none"):
        return _use(request, tools, "auto") if tools and choice != "none" else None
    if not isinstance(choice, str | dict) or choice == "":
        raise _bad_choice()
    if not tools:
        reason = "`tool_choice` may only be given together with `tools`."
        raise BadRequest(reason, param="tool_choice")
    if choice == "required":
        return _use(request, tools, "required")
    if isinstance(choice, str):
        raise _bad_choice()
    return _of_object(request, tools, choice)


def _of_object(
    request: ChatCompletionRequest, tools: tuple[Tool, ...], choice: Mapping[str, Any]
) -> ToolUse:
    kind = choice.get("type")
    if kind == "function":
        name = _function_name(choice, "tool_choice")
        chosen = _named(tools, [name], "tool_choice")
        return _use(request, chosen, "required", is_named=True)
    if kind == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)  # the Responses API has it flat
        mode = allowed.get("mode") if isinstance(allowed, Mapping) else None
        listed = allowed.get("tools") if isinstance(allowed, Mapping) else None
        if mode not in ("auto", "required") or not isinstance(listed, list) or not listed:
            param = "tool_choice.allowed_tools"
            reason = f'`{param}` must have a `mode`, "auto" or "required", and a list of `tools`.'
            raise BadRequest(reason, param=param)
        names = [_function_name(each, f"tool_choice.allowed_tools.tools.{i}")
                 for i, each in enumerate(listed)]  # fmt: skip
        return _use(request, _named(tools, names, "tool_choice.allowed_tools"), mode)
    raise _bad_choice()


def _bad_choice() -> BadRequest:
    return BadRequest(
        '`tool_choice` must be "none", "auto", "required", {"type": "function", "function": '
        '{"name": ...}} or {"type": "allowed_tools", ...}.',
        param="tool_choice",
    )


def _use(
    request: ChatCompletionRequest,
    callable_: tuple[Tool, ...],
    mode: Literal["auto", "required"],
    is_named: bool = False,
) -> ToolUse:
    parallel = request.parallel_tool_calls is not False and not is_named
    shown = tuple(_shown(tool) for tool in request.tools or ())
    return ToolUse(shown, callable_, mode, parallel, is_named)


def _shown(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = {key: value for key, value in tool["function"].items() if key != "strict"}
    return {"type": "function", **tool, "function": function}


def _function_name(choice: Any, path: str) -> str:
    """The name in {"type": "function", "function": {"name": ...}}, or flat as in responses."""
    function = choice.get("function", choice) if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    extra = isinstance(function, Mapping) and function is not choice and len(function) > 1
    if not isinstance(name, str) or choice.get("type") != "function" or extra:
        reason = f'`{path}` must be {{"type": "function", "function": {{"name": ...}}}}.'
        raise BadRequest(reason, param=path)
    return name


def _named(tools: Sequence[Tool], names: Sequence[str], path: str) -> tuple[Tool, ...]:
    known = {tool.name for tool in tools}
    for name in names:
        if name not in known:
            reason = f"`{path}` names the function {name[:100]!r}, which is not among the `tools`."
            raise BadRequest(reason, param=path)
    return tuple(tool for tool in tools if tool.name in names)


def _tools(given: Sequence[Any]) -> list[Tool]:
    if len(given) > MAX_TOOLS:
        raise BadRequest(f"`tools` must hold at most {MAX_TOOLS} tools.", param="tools")
    found: dict[str, Tool] = {}
    for index, each in enumerate(given):
        tool = _tool(each, f"tools.{index}")
        if tool.name in found:
            param = f"tools.{index}.function.name"
            raise BadRequest(f"`{param}`: the name {tool.name!r} is given twice.", param=param)
        found[tool.name] = tool
    if given and len(msgspec.json.encode(given)) > MAX_TOOLS_BYTES:
        reason = f"`tools` must have at most {MAX_TOOLS_BYTES} bytes together."
        raise BadRequest(reason, param="tools")
    return list(found.values())


def _tool(each: Any, path: str) -> Tool:
    if not isinstance(each, Mapping) or each.get("type", "function") != "function":
        raise BadRequest(f'`{path}` must be of the type "function".', param=path)
    function = each.get("function")
    if not isinstance(function, Mapping):
        raise BadRequest(f"`{path}.function` is required.", param=f"{path}.function")
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        param = f"{path}.function.name"
        reason = f"`{param}` must be 1 to {MAX_NAME} letters, digits, dots, dashes and underscores."
        raise BadRequest(reason, param=param)
    _check_fields(function, f"{path}.function")
    return Tool(
        name=name,
        parameters=dict(function.get("parameters") or {}),
        description=function.get("description") or "",
        strict=function.get("strict") is True,
    )


def _check_fields(function: Mapping[str, Any], path: str) -> None:
    if not isinstance(function.get("description", ""), str | None):
        param = f"{path}.description"
        raise BadRequest(f"`{param}` must be a string.", param=param)
    if not isinstance(function.get("strict", False), bool | None):
        raise BadRequest(f"`{path}.strict` must be true or false.", param=f"{path}.strict")
    param = f"{path}.parameters"
    parameters = function.get("parameters")
    if parameters is None:
        return
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        reason = f'`{param}` must be a JSON schema of the type "object".'
        raise BadRequest(reason, param=param)
    if _depth(parameters) > MAX_DEPTH:
        reason = f"`{param}` is nested more than {MAX_DEPTH} levels deep; use `$ref`."
        raise BadRequest(reason, param=param)


def _depth(value: Any) -> int:
    """How deep lists and objects lie in one another; no recursion."""
    deepest, level = 0, [value]
    while level and deepest <= MAX_DEPTH:
        inner = [v for each in level for v in (each.values() if isinstance(each, dict) else each)]
        level = [v for v in inner if isinstance(v, dict | list)]
        deepest += 1
    return deepest
