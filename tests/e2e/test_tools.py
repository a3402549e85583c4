"""Calls of tools as OpenAI's client asks for them, on a model that has never heard of any."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
import requests
from jsonschema import Draft202012Validator
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, Field

from support.server import Server

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 6},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
CLOCK = {
    "type": "object",
    "properties": {"zone": {"type": "integer", "minimum": -12, "maximum": 12}},
    "required": ["zone"],
    "additionalProperties": False,
}
SCHEMAS = {"weather": WEATHER, "clock": CLOCK}
ASK = {"role": "user", "content": "Hi"}


def tool(name: str, **fields: Any) -> Any:
    function = {"name": name, "parameters": SCHEMAS[name], **fields}
    return {"type": "function", "function": function}


TOOLS = [tool("weather"), tool("clock")]
BODY: dict[str, Any] = {
    "model": "packaged",
    "messages": [ASK],
    "tools": TOOLS,
    "max_tokens": 150,
    "temperature": 0,
}
NAMED = {"type": "function", "function": {"name": "clock"}}


def check(calls: Any) -> None:
    for call in calls:
        arguments = json.loads(call.function.arguments)
        Draft202012Validator(SCHEMAS[call.function.name]).validate(arguments)


def whole(client: openai.OpenAI, **fields: Any) -> ChatCompletion:
    return client.chat.completions.create(**{**BODY, **fields})


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_call_that_must_be_made_is_made_and_obeys_its_schema(
    client: openai.OpenAI, choice: Any, temperature: float
) -> None:
    answer = whole(client, tool_choice=choice, parallel_tool_calls=False, temperature=temperature)
    (found,) = answer.choices
    assert (found.finish_reason, found.message.content) == ("tool_calls", None)
    (call,) = found.message.tool_calls or ()
    assert call.id.startswith("call_")
    if choice is NAMED:
        assert call.type == "function"
        assert call.function.name == "clock"
    check([call])


def test_several_choices_with_log_probabilities_each_call(client: openai.OpenAI) -> None:
    answer = whole(
        client, tool_choice="required", n=3, temperature=1, seed=1, logprobs=True, stop=["\n\n"]
    )
    ids = set()
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content
        calls = choice.message.tool_calls or []
        assert calls
        check(calls)
        ids |= {call.id for call in calls}
    assert len(ids) == sum(len(choice.message.tool_calls or ()) for choice in answer.choices)


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_stream_of_calls_is_the_whole_answer_in_pieces(
    client: openai.OpenAI, choice: Any
) -> None:
    asked = {**BODY, "tool_choice": choice, "parallel_tool_calls": False}
    (answer,) = whole(client, **asked).choices
    with client.chat.completions.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        (streamed,) = stream.get_final_completion().choices
    assert "tool_calls.function.arguments.delta" in kinds
    assert streamed.finish_reason == answer.finish_reason == "tool_calls"
    ((mine,), (theirs,)) = (streamed.message.tool_calls, answer.message.tool_calls)
    assert (mine.function.name, mine.function.arguments) == (
        theirs.function.name,
        theirs.function.arguments,
    )


def test_a_conversation_goes_on_with_the_results_of_its_calls(client: openai.OpenAI) -> None:
    messages: list[Any] = [ASK]
    for _ in range(2):
        (choice,) = whole(client, messages=messages, tool_choice=NAMED).choices
        messages.append(choice.message)
        for call in choice.message.tool_calls or ():
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "noon"})
    answer = whole(client, messages=messages, tool_choice="none", max_tokens=8)
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content


class Clock(BaseModel):
    zone: int = Field(ge=-12, le=12)


class Verdict(BaseModel):
    is_late: bool


def test_parsed_tools_come_back_as_objects(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        **{**BODY, "tools": [openai.pydantic_function_tool(Clock)], "tool_choice": "required"},
        parallel_tool_calls=False,
    )
    (call,) = answer.choices[0].message.tool_calls or ()
    assert isinstance(call.function.parsed_arguments, Clock)


def test_seeds_form_of_arguments_is_the_object_itself(packaged_objects: Server) -> None:
    body = {**BODY, "tool_choice": NAMED}
    del body["model"]
    found = requests.post(f"{packaged_objects.base_url}/chat/completions", json=body, timeout=60)
    function = found.json()["choices"][0]["message"]["tool_calls"][0]["function"]
    assert function["name"] == "clock"
    Draft202012Validator(CLOCK).validate(function["arguments"])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools.1.function.name"),
        ({"tools": [{"type": "function", "function": {"name": 'a"b'}}]}, "tools.0.function.name"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [tool("clock", parameters={"not": {}})], "tool_choice": "required"}, "tools"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "y"}]}, "messages.0."),
    ],
    ids=["twice", "name", "choice", "schema", "history"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_mistake_is_a_400_that_names_the_field(
    packaged: Server, fields: dict[str, Any], param: str, stream: bool
) -> None:
    body = {**BODY, **fields, "stream": stream}
    found = requests.post(f"{packaged.base_url}/chat/completions", json=body, timeout=60)
    assert found.status_code == 400
    assert found.json()["error"]["param"].startswith(param)


def flat(name: str) -> Any:
    return {"type": "function", "name": name, "parameters": SCHEMAS[name], "strict": True}


def test_responses_call_functions_and_go_on_with_their_results(client: openai.OpenAI) -> None:
    asked: Any = {"model": "packaged", "tools": [flat("clock")], "temperature": 0}
    choice: Any = {"type": "function", "name": "clock"}
    first = client.responses.create(**asked, input="Hi", tool_choice=choice)
    (call,) = first.output
    assert call.type == "function_call"
    Draft202012Validator(CLOCK).validate(json.loads(call.arguments))
    with client.responses.stream(**asked, input="Hi", tool_choice=choice) as stream:
        events = list(stream)
        (streamed,) = stream.get_final_response().output
    assert streamed.type == "function_call"
    assert streamed.arguments == call.arguments
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == call.arguments
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "noon"}
    second = client.responses.create(
        **asked,
        input=[output],
        previous_response_id=first.id,
        tool_choice="none",
        max_output_tokens=8,
    )
    items: list[Any] = [{"role": "user", "content": "Hi"}, call.model_dump(), output]
    whole = client.responses.create(**asked, input=items, tool_choice="none", max_output_tokens=8)
    assert second.output_text == whole.output_text
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**asked, input=[output])
    assert caught.value.param == "input.0.call_id"
    more: Any = {**asked, "instructions": "Be brief.", "previous_response_id": first.id}
    for given, param in [
        ([{"role": "user", "content": "x"}, output], "previous_response_id"),
        ([output, {"role": "user", "content": "x"}, output], "input.2.call_id"),
    ]:
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(**more, input=given)
        assert caught.value.param == param
        assert f"`{param}`" in caught.value.message


def test_with_a_format_an_answer_is_calls_or_what_the_format_says(client: openai.OpenAI) -> None:
    kinds = set()
    for seed in range(6):
        answer = client.chat.completions.parse(
            **{**BODY, "tools": [openai.pydantic_function_tool(Clock)], "temperature": 2},
            response_format=Verdict,
            seed=seed,
        )
        (choice,) = answer.choices
        if choice.finish_reason == "tool_calls":
            check_all = [c.function.parsed_arguments for c in choice.message.tool_calls or ()]
            assert all(isinstance(arguments, Clock) for arguments in check_all)
        elif choice.finish_reason == "stop":
            assert isinstance(choice.message.parsed, Verdict)
        kinds.add(choice.finish_reason)
    assert kinds & {"tool_calls", "stop"}
