"""The conversation before a stored response, item by item."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pydantic import TypeAdapter

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.requests import ChatMessage
from mlc_llm.protocol.responses_api import ResponsesRequest
from mlc_llm.serve.answer.delta import Answer
from mlc_llm.serve.responses.input import messages_of
from mlc_llm.serve.responses.items import input_items, item_page
from mlc_llm.serve.responses.output import begun
from mlc_llm.serve.responses.store import Stored

CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'}
INPUT: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
    {"role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
    CALL,
    {"type": "function_call_output", "call_id": "c1", "output": "2"},
]
KINDS = ["message", "message", "reasoning", "message", "function_call", "function_call_output"]


def stored(given: list[dict[str, Any]]) -> Stored:
    request = msgspec.convert({"input": given}, ResponsesRequest)
    answer = Answer(id="resp_1", model="m", created=7, request_ids=("resp_1",))
    own = ChatMessage(role="assistant", content="Two.")
    response = begun(request, answer, GenerationConfig())
    return Stored(response, (*messages_of(request).messages, own))


def test_items_say_what_the_input_said() -> None:
    found = [msgspec.to_builtins(item) for item in input_items(stored(INPUT))]
    assert [item["type"] for item in found] == KINDS
    assert len({item["id"] for item in found}) == len(found)
    assert [item.get("role") for item in found[:2]] == ["developer", "user"]
    assert found[1]["content"] == INPUT[1]["content"]
    assert found[2]["content"] == INPUT[2]["content"]
    assert found[3]["content"][0]["text"] == "Let me see."
    assert {key: found[4][key] for key in CALL} == CALL
    assert {key: found[5][key] for key in INPUT[5]} == INPUT[5]


def test_items_may_be_sent_again() -> None:
    items = [msgspec.to_builtins(item) for item in input_items(stored(INPUT))]
    again = input_items(stored(items))
    assert [msgspec.to_builtins(item) for item in again] == items


def test_items_are_what_openais_client_expects() -> None:
    responses = pytest.importorskip("openai.types.responses")
    kind = TypeAdapter(responses.ResponseItem)
    for item in input_items(stored(INPUT)):
        kind.validate_python(msgspec.to_builtins(item))


def test_pages_follow_each_other_in_both_orders() -> None:
    items = input_items(stored([{"role": "user", "content": str(i)} for i in range(45)]))
    for order in ("asc", "desc"):
        seen: list[Any] = []
        query = {"order": order}
        while True:
            page = item_page(items, query)
            assert (page.first_id, page.last_id) == (page.data[0].id, page.data[-1].id)
            seen += page.data
            if not page.has_more:
                break
            query["after"] = page.data[-1].id
        assert seen == (items if order == "asc" else items[::-1])
    assert item_page(items, {}).data == items[:-21:-1]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "9" * 5000}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "msg_x"}, "after"),
    ],
)
def test_a_page_that_cannot_be_is_refused(query: dict[str, str], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        item_page(input_items(stored(INPUT)), query)
    assert caught.value.param == param
