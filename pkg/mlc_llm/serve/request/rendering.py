"""A chat request as the prompt that its model's template makes of it.

Where the template has no place for tools, or for calls in the conversation so far, they are said in
plain messages (`mlc_llm.tools.fallback`).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from mlc_llm.conversation_template.prompt import (
    ChatTemplate,
    DoesNotFit,
    Piece,
    RenderOptions,
    Turn,
)
from mlc_llm.errors import BadRequest
from mlc_llm.protocol.requests import ChatCompletionRequest
from mlc_llm.serve.request.fields import render_options
from mlc_llm.serve.request.tools import ToolUse
from mlc_llm.serve.request.turns import turns_of
from mlc_llm.tools.fallback import plain_history


def render(
    request: ChatCompletionRequest, template: ChatTemplate, uses: ToolUse | None, max_tokens: int
) -> list[Piece]:
    """The prompt; texts that cannot fit into `max_tokens` are refused. Raises BadRequest."""
    turns = turns_of(request.messages, max_tokens)
    options = render_options(request)
    if uses is not None and not template.writes_tools:
        return _render_told(plain_history(turns, uses.callable), template, options)
    has_calls = any(turn.tool_calls or turn.role == "tool" for turn in turns)
    if has_calls and not template.writes_calls:
        turns = plain_history(turns, ())
    if uses is not None:
        options = replace(options, tools=uses.shown)
    try:
        return template.render(turns, options)
    except DoesNotFit:
        if not has_calls:
            raise
        return _render_otherwise(turns, template, options)


def _render_otherwise(
    turns: Sequence[Turn], template: ChatTemplate, options: RenderOptions
) -> list[Piece]:
    """Some templates want a text in every message, some only one call in each."""
    turns = [replace(turn, content=turn.content or "") for turn in turns]
    try:
        return template.render(turns, options)
    except DoesNotFit:
        if all(len(turn.tool_calls) < 2 for turn in turns):
            raise
        return template.render(one_by_one(turns), options)


def one_by_one(turns: Sequence[Turn]) -> list[Turn]:
    """Calls that were made together as if each had been made after the result of the one before."""
    found: list[Turn] = []
    results: list[Turn] = []
    for turn in reversed(turns):
        if turn.role == "tool":
            results.insert(0, turn)
            continue
        if len(turn.tool_calls) > 1:
            pairs = zip(turn.tool_calls, _in_order(turn, results), strict=False)
            split = [
                step
                for index, (call, result) in enumerate(pairs)
                for step in (_one_call(turn, index), replace(result, tool_call_id=call.id))
            ]
            found = [*split, *found]
        else:
            found = [turn, *results, *found]
        results = []
    return [*results, *found]


def _one_call(turn: Turn, index: int) -> Turn:
    content = turn.content if index == 0 else ""
    return replace(turn, content=content, tool_calls=(turn.tool_calls[index],))


def _in_order(turn: Turn, results: Sequence[Turn]) -> list[Turn]:
    """The results in the order of the calls."""
    order = {call.id: index for index, call in enumerate(turn.tool_calls)}
    return sorted(results, key=lambda result: order.get(result.tool_call_id, len(order)))


def _render_told(
    turns: Sequence[Turn], template: ChatTemplate, options: RenderOptions
) -> list[Piece]:
    """Some templates refuse system messages: then the user says what the first one says."""
    try:
        return template.render(turns, options)
    except BadRequest:
        if len(turns) < 2 or turns[1].role != "user":
            raise
        said = f"{turns[0].content or ''}\n\n{turns[1].content or ''}"
        return template.render([replace(turns[1], content=said), *turns[2:]], options)
