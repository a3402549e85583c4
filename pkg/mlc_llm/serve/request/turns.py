"""The messages of a request as the turns that a template renders: roles checked, parts joined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from mlc_llm.conversation_template.prompt import Turn, TurnCall
from mlc_llm.errors import BadRequest
from mlc_llm.protocol.requests import ROLES, TEXT_PARTS, ChatMessage, ContentPart, ToolCall
from mlc_llm.tokenizers.tokenizer import check_text

MAX_PARTS = 16384


def turns_of(messages: list[ChatMessage], max_tokens: int) -> list[Turn]:
    """All messages as turns.

    Raises BadRequest naming the field for roles and parts that are not known, PromptTooLong for
    texts that cannot fit into `max_tokens`.
    """
    parts = sum(len(m.content) for m in messages if isinstance(m.content, list))
    calls = sum(len(m.tool_calls) for m in messages if m.tool_calls)
    if len(messages) + parts + calls > MAX_PARTS:
        reason = f"`messages` must be at most {MAX_PARTS} messages, content parts and tool calls."
        raise BadRequest(reason, param="messages")
    turns = [_turn(message, f"messages.{index}") for index, message in enumerate(messages)]
    check_text("".join(_texts(messages, turns)), max_tokens, "messages")
    return turns


def _texts(messages: Sequence[ChatMessage], turns: Sequence[Turn]) -> Iterator[str]:
    """All that a template may write."""
    for message, turn in zip(messages, turns, strict=True):
        yield turn.content or ""
        yield turn.reasoning or ""
        for call in message.tool_calls or ():
            yield call.function.name
            if isinstance(call.function.arguments, str):
                yield call.function.arguments


def _turn(message: ChatMessage, path: str) -> Turn:
    if message.role not in ROLES:
        reason = f"`{path}.role` must be one of {', '.join(ROLES)}."
        raise BadRequest(reason, param=f"{path}.role")
    content = message.content
    if isinstance(content, list):
        content = "".join(
            _part(part, f"{path}.content.{index}") for index, part in enumerate(content)
        )
    if content is None and message.role != "assistant":
        reason = f"`{path}.content` is required for the role {message.role}."
        raise BadRequest(reason, param=f"{path}.content")
    if content is None and not message.tool_calls:
        content = ""  # templates join it to other text
    return Turn(
        role=message.role,
        content=content,
        name=message.name,
        tool_calls=tuple(_call(call) for call in message.tool_calls or ()),
        tool_call_id=message.tool_call_id,
        reasoning=message.reasoning_content or message.reasoning,
    )


def _part(part: ContentPart, path: str) -> str:
    if part.type not in (*TEXT_PARTS, "refusal"):
        reason = f'`{path}` is of type "{part.type}"; this model reads text parts only.'
        raise BadRequest(reason, param=path)
    field, text = ("refusal", part.refusal) if part.type == "refusal" else ("text", part.text)
    if text is None:
        raise BadRequest(f"`{path}.{field}` is required.", param=f"{path}.{field}")
    return text


def _call(call: ToolCall) -> TurnCall:
    """Templates print arguments as JSON themselves, so they get the object where there is one."""
    arguments: Any = call.function.arguments
    if isinstance(arguments, str):
        if not arguments.strip():
            arguments = "{}"
        try:
            arguments = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            arguments = call.function.arguments
    elif arguments is None:
        arguments = {}
    return TurnCall(call.function.name, arguments, call.id)
