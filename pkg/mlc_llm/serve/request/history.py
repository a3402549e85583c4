"""Whether the calls of tools in a conversation and the results that follow belong together. Pure.

The rules are OpenAI's; calls without ids, which MLC LLM's clients send, are matched by their order.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.requests import ChatMessage


def check_history(messages: Sequence[ChatMessage]) -> None:
    """Every result answers a call before it, every call is answered. Raises BadRequest."""
    open_ids: list[str | None] = []
    asked = 0
    for index, message in enumerate(messages):
        path = f"messages.{index}"
        if message.role == "tool":
            _answer(open_ids, message.tool_call_id, path, messages, asked)
            continue
        _check_answered(open_ids, asked)
        open_ids = []
        if message.tool_calls:
            if message.role != "assistant":
                reason = f"`{path}.tool_calls` may only be in messages of the assistant."
                raise BadRequest(reason, param=f"{path}.tool_calls")
            open_ids = [call.id for call in message.tool_calls]
            asked = index
            _check_unique(open_ids, path)
    _check_answered(open_ids, asked)


def _answer(
    open_ids: list[str | None],
    call_id: str | None,
    path: str,
    messages: Sequence[ChatMessage],
    asked: int,
) -> None:
    """Takes the call that this result answers from the open ones."""
    param = f"{path}.tool_call_id"
    if call_id in open_ids:
        open_ids.remove(call_id)
    elif call_id is None and open_ids:
        raise BadRequest(f"`{param}` is required, because the calls have ids.", param=param)
    elif None in open_ids:
        open_ids.remove(None)
    elif call_id is not None and call_id in _ids(messages, asked):
        raise BadRequest(f"`{param}`: this call has been answered before.", param=param)
    else:
        reason = (
            f"`{path}` is a result, but no call of the assistant's message before it has its "
            "`tool_call_id`."
        )
        raise BadRequest(reason, param=param)


def _ids(messages: Sequence[ChatMessage], asked: int) -> set[str | None]:
    return {call.id for call in messages[asked].tool_calls or ()}


def _check_answered(open_ids: Sequence[str | None], asked: int) -> None:
    if open_ids:
        names = ", ".join(str(i)[:64] for i in open_ids[:8] if i is not None)
        reason = (
            f"`messages.{asked}.tool_calls` must be followed by a message of the role tool for "
            f"each call; missing: {names or 'all of them'}."
        )
        raise BadRequest(reason, param=f"messages.{asked}.tool_calls")


def _check_unique(ids: Sequence[str | None], path: str) -> None:
    given = [i for i in ids if i is not None]
    if len(set(given)) != len(given):
        reason = f"`{path}.tool_calls`: two calls have the same id."
        raise BadRequest(reason, param=f"{path}.tool_calls")
