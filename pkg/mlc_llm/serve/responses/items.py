"""The conversation before a stored response as items, page by page. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.requests import ChatMessage
from mlc_llm.protocol.responses_api import (
    InputCallOutput,
    InputMessage,
    InputText,
    ItemList,
    OutputCall,
    OutputMessage,
    OutputReasoning,
    OutputText,
    ReasoningText,
    StoredItem,
)
from mlc_llm.serve.responses.output import call_item_id, json_of
from mlc_llm.serve.responses.store import Stored

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
DONE = "completed"


def input_items(stored: Stored) -> list[StoredItem]:
    """What the model was given beside instructions, in order, earlier turns included.

    The last message of what is stored is the response's own.
    """
    name = stored.response.id.removeprefix("resp_")
    items: list[StoredItem] = []
    for index, message in enumerate(stored.messages[:-1]):
        items += _items(message, f"{name}_in_{index}")
    return items


def item_page(items: Sequence[StoredItem], query: Mapping[str, str]) -> ItemList:
    """A page of the items, as `limit`, `order` and `after` ask. Raises BadRequest."""
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise BadRequest('`order` must be "asc" or "desc".', param="order")
    limit = query.get("limit", str(DEFAULT_LIMIT))
    if not (
        limit.isascii() and limit.isdecimal() and len(limit) < 9 and 1 <= int(limit) <= MAX_LIMIT
    ):
        raise BadRequest(f"`limit` must be 1 to {MAX_LIMIT}.", param="limit")
    found = list(items if order == "asc" else reversed(items))
    if (after := query.get("after")) is not None:
        places = [place for place, item in enumerate(found, 1) if item.id == after]
        if not places:
            raise BadRequest("`after` must be the id of an item of this response.", param="after")
        found = found[places[0] :]
    page = found[: int(limit)]
    return ItemList(
        object="list",
        data=page,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(found) > len(page),
    )


def _items(message: ChatMessage, name: str) -> Iterable[StoredItem]:
    content = message.content if isinstance(message.content, str) else ""
    if message.role == "tool":
        call_id = message.tool_call_id or ""
        yield InputCallOutput(id=f"fco_{name}", call_id=call_id, output=content, status=DONE)
    elif message.role == "assistant":
        yield from _said(message, content, name)
    else:
        part = InputText(text=content)
        yield InputMessage(id=f"msg_{name}", role=message.role, status=DONE, content=[part])


def _said(message: ChatMessage, content: str, name: str) -> Iterable[StoredItem]:
    if message.reasoning_content:
        thought = ReasoningText(text=message.reasoning_content)
        yield OutputReasoning(id=f"rs_{name}", summary=[], content=[thought], status=DONE)
    if content or not message.tool_calls:
        part = OutputText(text=content, annotations=[], logprobs=[])
        yield OutputMessage(id=f"msg_{name}", role="assistant", status=DONE, content=[part])
    for call in message.tool_calls or ():
        yield OutputCall(
            id=call_item_id(call.id or name),
            call_id=call.id or "",
            name=call.function.name,
            arguments=json_of(call.function.arguments or "{}"),
            status=DONE,
        )
