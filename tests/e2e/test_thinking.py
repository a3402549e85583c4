"""A model that thinks before it answers and marks calls by special tokens, of random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from jsonschema import Draft202012Validator

from support.server import Server
from support.thinker import PARAMETERS, TOOL, write_thinker

BODY: dict[str, Any] = {
    "model": "thinker",
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 60,
    "temperature": 1,
    "seed": 5,
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = write_thinker(tmp_path_factory.mktemp("models") / "thinker")
    with (
        Server(str(folder), "--served-model-name", "thinker") as server,
        openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as found,
    ):
        yield found


def ask(client: openai.OpenAI, budget: int | None = None, **fields: Any) -> Any:
    extra = {} if budget is None else {"extra_body": {"thinking_token_budget": budget}}
    return client.chat.completions.create(**{**BODY, **extra, **fields})


def test_thoughts_end_with_their_budget_and_are_not_content(client: openai.OpenAI) -> None:
    answer = ask(client, budget=6, logprobs=True)
    (choice,) = answer.choices
    assert choice.message.reasoning_content
    assert choice.message.reasoning_content == choice.message.reasoning
    assert choice.message.content
    assert "</think>" not in choice.message.content
    assert 0 < answer.usage.completion_tokens_details.reasoning_tokens < BODY["max_tokens"]
    assert [t.token for t in choice.logprobs.content].index("</think>") == 6


def test_a_stream_of_thoughts_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    (whole,) = ask(client, budget=6).choices
    deltas = [chunk.choices[0].delta for chunk in ask(client, budget=6, stream=True)]
    assert "".join(delta.content or "" for delta in deltas) == whole.message.content
    thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert thought == whole.message.reasoning_content


def test_templates_switch_thinking_off(client: openai.OpenAI) -> None:
    (choice,) = ask(client, reasoning_effort="none").choices
    assert getattr(choice.message, "reasoning_content", None) is None
    assert choice.message.content


@pytest.mark.parametrize("stream", [False, True])
def test_calls_after_thoughts_obey_and_their_special_marks_are_not_seen(
    client: openai.OpenAI, stream: bool
) -> None:
    asked: Any = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 200}
    extra = {"thinking_token_budget": 4}
    if stream:
        with client.chat.completions.stream(**{**BODY, **asked}, extra_body=extra) as events:
            (choice,) = events.get_final_completion().choices
    else:
        (choice,) = ask(client, budget=4, **asked).choices
    assert not choice.message.content
    assert choice.message.tool_calls
    for call in choice.message.tool_calls:
        Draft202012Validator(PARAMETERS).validate(json.loads(call.function.arguments))
    assert choice.finish_reason == "tool_calls"


def test_what_must_obey_a_schema_begins_after_the_thoughts(client: openai.OpenAI) -> None:
    schema = {"name": "x", "schema": PARAMETERS}
    fields = {"response_format": {"type": "json_schema", "json_schema": schema}}
    (choice,) = ask(client, budget=4, **fields).choices
    assert choice.message.reasoning_content
    Draft202012Validator(PARAMETERS).validate(json.loads(choice.message.content))


def test_responses_have_thoughts_as_items_of_their_own(client: openai.OpenAI) -> None:
    asked: Any = {"model": "thinker", "input": "Hi", "max_output_tokens": 20}
    events = list(client.responses.create(**asked, stream=True))
    assert "response.reasoning_text.delta" in {event.type for event in events}
    assert events[-1].response.output[0].type == "reasoning"
    off = client.responses.create(**asked, reasoning={"effort": "none"})
    assert [item.type for item in off.output] == ["message"]
