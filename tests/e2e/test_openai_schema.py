"""Responses of a running server, recorded, against the schema that OpenAI publishes."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import requests

from support.server import Server
from support.shared import shared_path

jsonschema = pytest.importorskip("jsonschema", reason="reads OpenAI's schema")
yaml = pytest.importorskip("yaml", reason="OpenAI's schema is YAML")

CHAT = {"messages": [{"role": "user", "content": "What is the capital of Norway?"}]}
TEXT = {"prompt": "The capital of"}
Check = Callable[[str, Any], None]


@cache
def _components() -> dict[str, Any]:
    path = shared_path("data/suites/openai_openapi.yaml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, Any] = _modern(yaml.load(path.read_text(), Loader=loader)["components"])
    return found


def _modern(schema: Any) -> Any:
    """`nullable`, which the document still uses, as the JSON schema of today says it."""
    if isinstance(schema, list):
        return [_modern(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    new = {key: _modern(value) for key, value in schema.items()}
    if new.pop("nullable", False) is True:
        return {"anyOf": [new, {"type": "null"}]}
    return new


@pytest.fixture(scope="module")
def check() -> Check:
    """Fails unless a value is what OpenAI's schema of that name asks for."""
    components = _components()

    @cache
    def validator(name: str) -> Any:
        schema = {"$ref": f"#/components/schemas/{name}", "components": components}
        return jsonschema.Draft202012Validator(schema)

    def checked(name: str, value: Any) -> None:
        best = jsonschema.exceptions.best_match(validator(name).iter_errors(value))
        assert best is None, f"{name}: {best.json_path}: {best.message[:300]}"

    return checked


def post(server: Server, path: str, **body: Any) -> Any:
    answer = requests.post(f"{server.base_url}/{path}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(server: Server, path: str, **body: Any) -> list[Any]:
    body["stream"] = True
    answer = requests.post(f"{server.base_url}/{path}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def without_null_usage(chunk: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's own chunks have a usage of null, though its schema has no word of it."""
    return {k: v for k, v in chunk.items() if k != "usage" or v is not None}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 2, "logprobs": True, "top_logprobs": 3, "max_tokens": 5},
        {"max_completion_tokens": 1, "seed": 1, "user": "u"},
    ],
    ids=str,
)
def test_chat_answers(packaged: Server, check: Check, fields: dict[str, Any]) -> None:
    check("CreateChatCompletionResponse", post(packaged, "chat/completions", **CHAT, **fields))
    usage = {"stream_options": {"include_usage": True}}
    for chunk in events(packaged, "chat/completions", **CHAT, **fields, **usage):
        check("CreateChatCompletionStreamResponse", without_null_usage(chunk))


@pytest.mark.parametrize("fields", [{}, {"n": 2, "logprobs": 2, "max_tokens": 5}, {"echo": True}])
def test_completions(packaged: Server, check: Check, fields: dict[str, Any]) -> None:
    check("CreateCompletionResponse", post(packaged, "completions", **TEXT, **fields))
    for chunk in events(packaged, "completions", **TEXT, **fields)[-1:]:
        check("CreateCompletionResponse", without_null_usage(chunk))


def test_embeddings(packaged: Server, check: Check) -> None:
    check("CreateEmbeddingResponse", post(packaged, "embeddings", input=["a", "b"]))


def test_models(packaged: Server, check: Check) -> None:
    check("ListModelsResponse", requests.get(f"{packaged.base_url}/models", timeout=30).json())
    check("Model", requests.get(f"{packaged.base_url}/models/packaged", timeout=30).json())


def kinds_of_events(server: Server, check: Check, body: dict[str, Any]) -> set[str]:
    """The types of a streamed response's events, each of which obeys its schema."""
    kinds = set()
    for event in events(server, "responses", **body):
        check("ResponseStreamEvent", event)
        kinds.add(event["type"])
    return kinds


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"instructions": "Be brief.", "metadata": {"a": "b"}, "user": "u", "temperature": 0.5},
        {"max_output_tokens": 2, "include": ["message.output_text.logprobs"], "top_logprobs": 2},
    ],
    ids=str,
)
def test_responses(packaged: Server, check: Check, fields: dict[str, Any]) -> None:
    body = {"input": "What is the capital of Norway?", **fields}
    check("Response", post(packaged, "responses", **body))
    kinds = kinds_of_events(packaged, check, body)
    assert "response.output_text.delta" in kinds


CLOCK = {
    "name": "clock",
    "parameters": {
        "type": "object",
        "properties": {"zone": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["zone"],
        "additionalProperties": False,
    },
    "strict": True,
}


def test_calls_of_tools(packaged: Server, check: Check) -> None:
    tools = [{"type": "function", "function": CLOCK}]
    body = {**CHAT, "tools": tools, "tool_choice": "required", "parallel_tool_calls": False}
    whole = post(packaged, "chat/completions", **body)
    check("CreateChatCompletionResponse", whole)
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    for chunk in events(packaged, "chat/completions", **body):
        check("CreateChatCompletionStreamResponse", without_null_usage(chunk))


def test_responses_that_call_functions(packaged: Server, check: Check) -> None:
    choice = {"type": "function", "name": "clock"}
    body = {"input": "Hi", "tools": [{"type": "function", **CLOCK}], "tool_choice": choice}
    found = post(packaged, "responses", **body)
    check("Response", found)
    kinds = kinds_of_events(packaged, check, body)
    assert "response.function_call_arguments.done" in kinds
    result = {
        "type": "function_call_output",
        "call_id": found["output"][0]["call_id"],
        "output": "noon",
    }
    more = {"input": [result], "previous_response_id": found["id"], "tools": body["tools"]}
    after = post(packaged, "responses", **more, max_output_tokens=2)
    items = requests.get(f"{packaged.base_url}/responses/{after['id']}/input_items", timeout=30)
    assert len(items.json()["data"]) == 3
    check("ResponseItemList", items.json())


def test_errors(packaged: Server, check: Check) -> None:
    for path, body in [("chat/completions", {}), ("responses", {"input": 7}), ("nowhere", {})]:
        answer = requests.post(f"{packaged.base_url}/{path}", json=body, timeout=30)
        check("ErrorResponse", answer.json())
