"""Calls of tools, thoughts and structure through the engines of Python."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.responses import ChatCompletionStreamResponse
from mlc_llm.serve.engine import AsyncMLCEngine, MLCEngine
from support.thinker import PARAMETERS, TOOL, write_thinker

ASK: dict[str, Any] = {"role": "user", "content": "Hi"}
BODY: dict[str, Any] = {
    "messages": [ASK],
    "tools": [TOOL],
    "max_tokens": 200,
    "temperature": 1,
    "seed": 5,
    "thinking_token_budget": 4,
}
STRICT = {"type": "function", "function": {**TOOL["function"], "strict": True}}
NAMED = {"type": "function", "function": {"name": "f"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_thinker(tmp_path_factory.mktemp("models") / "thinker")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[MLCEngine]:
    with MLCEngine(str(folder)) as found:
        yield found


class Message:
    """A streamed message, put together as clients do it."""

    def __init__(self) -> None:
        self.content = ""
        self.thought = ""
        self.calls: list[list[str]] = []
        self.reason: str | None = None

    def add(self, chunk: ChatCompletionStreamResponse) -> None:
        for choice in chunk.choices:
            self.content += choice.delta.content
            self.thought += choice.delta.reasoning_content or ""
            for call in choice.delta.tool_calls or ():
                if call.id is not None:
                    assert call.index == len(self.calls)
                    self.calls.append([call.id, call.function.name or "", ""])
                self.calls[call.index][2] += call.function.arguments
            self.reason = choice.finish_reason or self.reason


def check(calls: list[Any]) -> None:
    assert calls
    for call in calls:
        assert call.function.name == "f"
        Draft202012Validator(PARAMETERS).validate(json.loads(call.function.arguments))


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_calls_after_thoughts_whole_and_streamed(engine: MLCEngine, choice: Any) -> None:
    asked = {**BODY, "tool_choice": choice}
    (whole,) = engine.chat.completions.create(**asked).choices
    check(whole.message.tool_calls or [])
    assert (whole.message.content, whole.finish_reason) == (None, "tool_calls")
    assert whole.message.reasoning_content
    streamed = Message()
    for chunk in engine.chat.completions.create(**asked, stream=True):
        streamed.add(chunk)
    assert (streamed.content, streamed.reason) == ("", "tool_calls")
    assert streamed.thought == whole.message.reasoning_content
    found = [[c.function.name, c.function.arguments] for c in whole.message.tool_calls or ()]
    assert [call[1:] for call in streamed.calls] == found


def test_a_conversation_goes_on_with_results_and_thoughts_switched_off(engine: MLCEngine) -> None:
    asked = {**BODY, "reasoning_effort": "none", "parallel_tool_calls": False}
    (first,) = engine.chat.completions.create(**asked, tool_choice="required").choices
    assert first.message.reasoning_content is None
    (call,) = first.message.tool_calls or ()
    result = {"role": "tool", "tool_call_id": call.id, "content": "noon"}
    messages = [ASK, first.message, result]
    second = engine.chat.completions.create(
        **{**asked, "messages": messages, "max_tokens": 8}, tool_choice="none"
    )
    assert second.choices[0].message.tool_calls is None
    with pytest.raises(BadRequest, match="must be followed by"):
        engine.chat.completions.create(**{**asked, "messages": messages[:2]})


def test_with_auto_an_answer_is_calls_or_what_its_format_says(engine: MLCEngine) -> None:
    schema = {"name": "x", "schema": {"enum": ["day", "night"]}}
    answer = engine.chat.completions.create(
        **{**BODY, "tools": [STRICT]},
        n=4,
        response_format={"type": "json_schema", "json_schema": schema},
    )
    for choice in answer.choices:
        assert choice.message.reasoning_content
        if choice.finish_reason == "tool_calls":
            check(choice.message.tool_calls or [])
        elif choice.finish_reason == "stop":
            assert json.loads(choice.message.content or "") in ("day", "night")


async def test_asynchronous_streams_of_calls_do_not_mix(folder: Path) -> None:
    asked = {**BODY, "tool_choice": "required"}

    async with AsyncMLCEngine(str(folder)) as engine:

        async def stream(seed: int) -> Message:
            message = Message()
            async for chunk in await engine.chat.completions.create(
                **{**asked, "seed": seed}, stream=True
            ):
                message.add(chunk)
            return message

        async def whole(seed: int) -> Any:
            return (await engine.chat.completions.create(**{**asked, "seed": seed})).choices[0]

        streams = await asyncio.gather(*map(stream, range(3)))
        wholes = await asyncio.gather(*map(whole, range(3)))
    for streamed, answer in zip(streams, wholes, strict=True):
        assert streamed.thought == answer.message.reasoning_content
        assert streamed.reason == answer.finish_reason
        found = [call.function.arguments for call in answer.message.tool_calls or ()]
        assert [call[2] for call in streamed.calls] == found
        check(answer.message.tool_calls or [])
