"""Tools for models whose chat template has no place for them.

The tools and the form of a call are said in the system message; calls and results of the history
are written as plain messages. The form is Hermes', which most open models have seen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from msgspec.structs import replace

from mlc_llm.conversation_template.prompt import Turn
from mlc_llm.tools.formats import FALLBACK
from mlc_llm.tools.shape import json_arguments, write_calls
from mlc_llm.tools.tool import Tool

SYSTEM_ROLES = ("system", "developer")


def fallback_prompt(tools: Sequence[Tool]) -> str:
    """What is said to the model about its tools."""
    described = "\n".join(_describe(tool) for tool in tools)
    example = write_calls(FALLBACK.shape, [("NAME", "ARGUMENTS")])
    return (
        "You can call functions. They are described here, one JSON object per line, their "
        f"arguments by a JSON schema:\n<tools>\n{described}\n</tools>\n"
        "To call a function, write its name and its arguments, a JSON object, in this form, and "
        f"nothing after it:\n{example}\n"
        "For several calls write the form several times. You are given the results between "
        "<tool_response> and </tool_response>. Answer without a call when none is needed."
    )


def plain_history(turns: Sequence[Turn], tools: Sequence[Tool]) -> list[Turn]:
    """The conversation in system, user and assistant messages alone, the tools said first.

    The results of calls become one message of the user each time, because templates want roles to
    alternate. Without tools only the history is rewritten.
    """
    plain: list[Turn] = []
    for turn in turns:
        turn = _plain(turn)
        last = plain[-1] if plain else None
        if last is not None and last.role == "tool" and turn.role == "tool":
            plain[-1] = replace(last, content=f"{last.content}\n{turn.content}")
        else:
            plain.append(turn)
    plain = [replace(turn, role="user") if turn.role == "tool" else turn for turn in plain]
    return _with_system(plain, fallback_prompt(tools)) if tools else plain


def _describe(tool: Tool) -> str:
    said = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return json.dumps({key: value for key, value in said.items() if value}, ensure_ascii=False)


def _plain(turn: Turn) -> Turn:
    if turn.tool_calls:
        calls = [(call.name, json_arguments(call.arguments)) for call in turn.tool_calls]
        written = write_calls(FALLBACK.shape, calls)
        content = f"{turn.content}\n{written}" if turn.content else written
        return replace(turn, content=content, tool_calls=())
    if turn.role == "tool":
        content = f"<tool_response>\n{turn.content or ''}\n</tool_response>"
        return replace(turn, content=content, name=None, tool_call_id=None)
    return turn


def _with_system(turns: list[Turn], text: str) -> list[Turn]:
    if turns and turns[0].role in SYSTEM_ROLES:
        first = turns[0]
        content = f"{first.content}\n\n{text}" if first.content else text
        return [replace(first, content=content), *turns[1:]]
    return [Turn(role="system", content=text), *turns]
