"""A request of the Responses API as the chat request that it amounts to. Pure.

Errors name the fields of the Responses API, whatever the chat request calls them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.requests import ChatCompletionRequest, ChatMessage, from_arguments
from mlc_llm.protocol.responses_api import InputItem, InputPart, ResponsesRequest

LOGPROBS = "message.output_text.logprobs"
TEXT_PARTS = ("input_text", "output_text", "text", "refusal")

NAMES = {
    "max_completion_tokens": "max_output_tokens",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
}
"""What the chat request calls a field, and what the Responses API calls it."""


_MESSAGE = re.compile(r"\bmessages\.(\d+)([\w.]*)")
_WORDS = {
    "`tool_call_id`": "`call_id`",
    "a message of the role tool": "an item of the type function_call_output",
    "the assistant's message before it": "the response before it",
}
_FUNCTION = re.compile(r"(tools\.\d+)\.function(.*)\Z")


def check_supported(request: ResponsesRequest) -> None:
    """Refuse what this server does not have. Raises BadRequest."""
    for field in ("background", "conversation", "prompt", "context_management"):
        if getattr(request, field):
            raise BadRequest(f"`{field}` is not supported here; leave it out.", param=field)
    if request.truncation not in (None, "disabled"):
        raise BadRequest('`truncation` must be "disabled".', param="truncation")
    for index, tool in enumerate(request.tools or ()):
        if tool.get("type") != "function":
            reason = f"`tools.{index}` must be of the type function; no others run here."
            raise BadRequest(reason, param=f"tools.{index}")


class Placed(NamedTuple):
    """Messages, and of each which field of the request begins it."""

    messages: tuple[ChatMessage, ...]
    places: tuple[str, ...]


def messages_of(request: ResponsesRequest) -> Placed:
    """The input as messages. Raises BadRequest."""
    if isinstance(request.input, str):
        return Placed((ChatMessage(role="user", content=request.input),), ("input",))
    if not request.input:
        raise BadRequest("`input` must hold at least one item.", param="input")
    found: list[dict[str, Any]] = []
    places: list[str] = []
    for index, item in enumerate(request.input):
        _append(found, item, f"input.{index}")
        places += [f"input.{index}"] * (len(found) - len(places))
    said = [(m, place) for m, place in zip(found, places, strict=True) if not _is_thought_alone(m)]
    return Placed(
        tuple(msgspec.convert(message, ChatMessage) for message, _ in said),
        tuple(place for _, place in said),
    )


def chat_request(
    request: ResponsesRequest, history: Sequence[ChatMessage], messages: Sequence[ChatMessage]
) -> ChatCompletionRequest:
    """The chat request over earlier messages and new ones. Raises BadRequest."""
    instructions = [ChatMessage(role="system", content=request.instructions)]
    whole = [*(instructions if request.instructions else ()), *history, *messages]
    wants_logprobs = LOGPROBS in (request.include or ()) or bool(request.top_logprobs)
    fields: dict[str, Any] = {
        "model": request.model,
        "messages": [msgspec.to_builtins(message) for message in whole],
        "max_completion_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stream": request.stream,
        "logprobs": True if wants_logprobs else None,
        "top_logprobs": request.top_logprobs,
        "response_format": _format(request),
        "reasoning_effort": request.reasoning.effort if request.reasoning else None,
        "tools": [_tool(tool) for tool in request.tools or ()] or None,
        "tool_choice": _tool_choice(request.tool_choice),
        "parallel_tool_calls": request.parallel_tool_calls,
    }
    with named_as_here():
        given = {name: value for name, value in fields.items() if value is not None}
        return from_arguments(ChatCompletionRequest, given)


@contextmanager
def named_as_here(places: Sequence[str] = ()) -> Iterator[None]:
    """Errors of a chat request by the names of the Responses API.

    `places`: what the messages of the chat request are in this one.
    """
    try:
        yield
    except BadRequest as error:
        _place(error, places)
        for theirs, ours in NAMES.items():
            if f"{error.param}.".startswith(f"{theirs}."):
                error.param = f"{ours}{(error.param or '').removeprefix(theirs)}"
                error.message = error.message.replace(f"`{theirs}", f"`{ours}")
                break
        _flatten(error)
        error.args = (error.message,)
        raise


def _place(error: BadRequest, places: Sequence[str]) -> None:
    """Messages of the chat request as the items that they were made of."""

    def here(found: re.Match[str]) -> str:
        index = int(found[1])
        place = places[index] if index < len(places) else "input"
        return place + found[2].removeprefix(".tool_calls").replace("tool_call_id", "call_id")

    if _MESSAGE.match(error.param or ""):
        error.param = _MESSAGE.sub(here, error.param or "")
        error.message = _MESSAGE.sub(here, error.message)
        for theirs, ours in _WORDS.items():
            error.message = error.message.replace(theirs, ours)


def _flatten(error: BadRequest) -> None:
    """Functions lie one level deeper in chat requests."""
    found = _FUNCTION.match(error.param or "")
    if found is not None:
        error.param = f"{found[1]}{found[2]}"
        error.message = error.message.replace(f"`{found[0]}", f"`{error.param}")


def _append(messages: list[dict[str, Any]], item: InputItem, path: str) -> None:
    match item.type:
        case None | "message":
            content = _text(item.content, f"{path}.content")
            if item.role is None or content is None:
                missing = "role" if item.role is None else "content"
                raise BadRequest(f"`{path}.{missing}` is required.", param=f"{path}.{missing}")
            last = messages[-1] if messages else {}
            if item.role == "assistant" and _is_thought_alone(last):
                last["content"] = content
            else:
                messages.append({"role": item.role, "content": content})
        case "function_call":
            call = {
                "id": _required(item.call_id, f"{path}.call_id"),
                "type": "function",
                "function": {"name": _required(item.name, f"{path}.name")},
            }
            call["function"]["arguments"] = item.arguments or "{}"  # type: ignore[index]
            last = messages[-1] if messages else {}
            if last.get("role") == "assistant":  # its text, and calls made together with this one
                last.setdefault("tool_calls", []).append(call)
            else:
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        case "function_call_output":
            output = _required(_text(item.output, f"{path}.output"), f"{path}.output")
            call_id = _required(item.call_id, f"{path}.call_id")
            messages.append({"role": "tool", "content": output, "tool_call_id": call_id})
        case "reasoning":
            text = _thought(item.content)
            if text:  # what follows is said by the same message
                thought = {"role": "assistant", "content": None, "reasoning_content": text}
                messages.append(thought)
        case other:
            reason = f'`{path}` is of type "{other[:50]}", which is not supported here.'
            raise BadRequest(reason, param=f"{path}.type")


def _text(content: str | list[InputPart] | None, path: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    texts = []
    for index, part in enumerate(content):
        text = part.refusal if part.type == "refusal" else part.text
        if part.type not in TEXT_PARTS or text is None:
            reason = f"`{path}.{index}` must be a part with a text; this model reads no other."
            raise BadRequest(reason, param=f"{path}.{index}")
        texts.append(text)
    return "".join(texts)


def _is_thought_alone(message: dict[str, Any]) -> bool:
    return (
        "reasoning_content" in message
        and message["content"] is None
        and not message.get("tool_calls")
    )


def _thought(content: str | list[InputPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text or "" for part in content)


def _required(value: str | None, path: str) -> str:
    if value is None:
        raise BadRequest(f"`{path}` is required.", param=path)
    return value


def _format(request: ResponsesRequest) -> dict[str, Any] | None:
    """The chat request has the schema one level deeper."""
    asked = request.text.format if request.text else None
    if asked is None or asked.get("type") != "json_schema":
        return asked
    schema = {name: value for name, value in asked.items() if name != "type"}
    return {"type": "json_schema", "json_schema": schema}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = {name: value for name, value in tool.items() if name != "type" and value is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    if isinstance(choice, dict) and "name" in choice:
        return {"type": "function", "function": {"name": choice["name"]}}
    return choice
