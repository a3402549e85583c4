"""The Responses API through the openai package."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
import requests

from support.server import Server

MODEL = "packaged"
QUESTION = "What is the capital of Norway?"


def test_a_response_is_what_a_chat_answer_is(client: openai.OpenAI) -> None:
    found = client.responses.create(model=MODEL, input=QUESTION, temperature=0)
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], temperature=0
    )
    assert found.status == "completed"
    assert found.output_text == answer.choices[0].message.content
    assert found.usage is not None
    assert answer.usage is not None
    assert found.usage.total_tokens == answer.usage.total_tokens


def test_a_stream_ends_with_the_whole_response(client: openai.OpenAI) -> None:
    text = ""
    with client.responses.stream(model=MODEL, input=QUESTION, temperature=0) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                text += event.delta
        final = stream.get_final_response()
    assert text
    assert final.output_text == text
    assert client.responses.retrieve(final.id).output_text == text


def test_a_conversation_goes_on_from_a_stored_response(client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, input=QUESTION, temperature=0)
    second = client.responses.create(
        model=MODEL, input="And of Italy?", previous_response_id=first.id, temperature=0
    )
    messages: list[Any] = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And of Italy?"},
    ]
    whole = client.responses.create(model=MODEL, input=messages, temperature=0)
    assert second.output_text == whole.output_text
    assert second.usage is not None
    assert whole.usage is not None
    assert second.usage.input_tokens == whole.usage.input_tokens
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model=MODEL, input="x", previous_response_id=first.id)
    assert caught.value.param == "previous_response_id"


def test_what_came_before_a_response_can_be_listed_and_counted(client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, input=QUESTION, temperature=0)
    asked: Any = {"model": MODEL, "input": "And of Italy?", "previous_response_id": first.id}
    second = client.responses.create(**asked, temperature=0)
    items = list(client.responses.input_items.list(second.id, order="asc", limit=2))
    said: list[Any] = [(item.role, item.content[0].text) for item in items]  # type: ignore[union-attr]
    assert said == [("user", QUESTION), ("assistant", first.output_text), ("user", "And of Italy?")]
    counted = client.responses.input_tokens.count(**asked)
    assert second.usage is not None
    assert counted.input_tokens == second.usage.input_tokens


def test_what_stored_responses_cannot_do_is_said(client: openai.OpenAI) -> None:
    found = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=1)
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(found.id)
    with pytest.raises(openai.BadRequestError, match="stream"):
        client.responses.retrieve(found.id, stream=True)
    with pytest.raises(openai.NotFoundError):
        client.responses.cancel("resp_x")
    with pytest.raises(openai.NotFoundError):
        client.responses.input_items.list("resp_x")


def test_what_is_not_to_be_stored_is_not(client: openai.OpenAI) -> None:
    found = client.responses.create(model=MODEL, input=QUESTION, store=False, max_output_tokens=2)
    assert found.status == "incomplete"
    assert found.incomplete_details is not None
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(found.id)


def test_errors_name_the_fields_of_this_api(packaged: Server) -> None:
    for fields, param in [
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input.0.role"),
        ({"temperature": 7, "stream": True}, "temperature"),
    ]:
        body = {"input": "hi", **fields}
        answer = requests.post(f"{packaged.base_url}/responses", json=body, timeout=30)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param


def test_a_text_follows_its_format(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    }
    found = client.responses.create(
        model=MODEL,
        input=QUESTION,
        temperature=0,
        text={"format": {"type": "json_schema", "name": "answer", "schema": schema}},
    )
    assert set(json.loads(found.output_text)) == {"city"}
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(
            model=MODEL,
            input=QUESTION,
            text={"format": {"type": "json_schema", "name": "a", "schema": {"not": {}}}},
        )
    assert (caught.value.param or "").startswith("text.format")
