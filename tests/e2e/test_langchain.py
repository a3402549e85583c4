"""langchain-openai, unchanged, against the real server and the packaged model."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from typing import Any, Literal

import httpx
import openai
import pytest
from pydantic import BaseModel, Field

from support.offline import QUIET, stay_on_loopback
from support.server import Server

pytest.importorskip("langchain_openai", reason="drives the server with it")
messages = pytest.importorskip("langchain_core.messages")
AIMessage, ToolMessage = messages.AIMessage, messages.ToolMessage

# The stream's last chunk carries the parsed object, which the client's own types do not foresee.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")

QUESTION = "What is the capital of Norway?"


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=20)
    population: int = Field(ge=0, le=100_000)


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Oslo", "Rome"]
    days: int = Field(ge=1, le=9)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    stay_on_loopback(monkeypatch)


@pytest.fixture
def lc() -> Any:
    """The package, loaded when telemetry is off."""
    return pytest.importorskip("langchain_openai")


@pytest.fixture
async def settings(packaged: Server) -> AsyncIterator[dict[str, Any]]:
    """How to reach the server, by connections that end with the test."""
    with httpx.Client() as connections:
        async with httpx.AsyncClient() as async_connections:
            yield {
                "model": "packaged",
                "base_url": packaged.base_url,
                "api_key": "none",
                "temperature": 0,
                "max_tokens": 60,
                "max_retries": 0,
                "http_client": connections,
                "http_async_client": async_connections,
            }


@pytest.fixture
def chat(lc: Any, settings: dict[str, Any]) -> Any:
    return lc.ChatOpenAI(**settings)


def test_an_answer_has_text_usage_and_a_reason(chat: Any) -> None:
    answer = chat.invoke(QUESTION)
    assert "Oslo" in answer.content
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata["total_tokens"] == (
        answer.usage_metadata["input_tokens"] + answer.usage_metadata["output_tokens"]
    )
    assert answer.tool_calls == []


def test_a_stream_adds_up_to_the_answer(chat: Any) -> None:
    whole = chat.invoke(QUESTION)
    chunks = list(chat.stream(QUESTION, stream_usage=True))
    added = chunks[0]
    for chunk in chunks[1:]:
        added += chunk
    assert added.content == whole.content
    assert added.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]
    assert added.response_metadata["finish_reason"] == "stop"


async def test_asynchronous_calls_and_batches_say_the_same(chat: Any) -> None:
    whole = chat.invoke(QUESTION).content
    assert (await chat.ainvoke(QUESTION)).content == whole
    assert "".join([chunk.content async for chunk in chat.astream(QUESTION)]) == whole
    assert [answer.content for answer in await chat.abatch([QUESTION] * 3)] == [whole] * 3


def test_a_conversation_is_read_as_one(chat: Any) -> None:
    turns = [("system", "Answer briefly."), ("human", QUESTION)]
    first = chat.invoke(turns)
    second = chat.invoke([*turns, first, ("human", "And of Italy?")])
    assert second.usage_metadata["input_tokens"] > first.usage_metadata["input_tokens"]
    parts = [{"type": "text", "text": QUESTION[:10]}, {"type": "text", "text": QUESTION[10:]}]
    assert chat.invoke([("human", parts)]).content == chat.invoke(QUESTION).content


def test_log_probabilities_come_along(lc: Any, settings: dict[str, Any]) -> None:
    answer = lc.ChatOpenAI(**settings, logprobs=True, top_logprobs=2).invoke(QUESTION)
    tokens = answer.response_metadata["logprobs"]["content"]
    assert len(tokens) >= answer.usage_metadata["output_tokens"] - 1
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)


def test_structured_output_is_an_instance_of_the_model(chat: Any) -> None:
    asked = chat.with_structured_output(City, method="json_schema")
    city = asked.invoke("Name a city.")
    assert isinstance(city, City)
    *_, last = asked.stream("Name a city.")
    assert last == city


async def test_structured_output_is_awaited_and_hot(lc: Any, settings: dict[str, Any]) -> None:
    hot = lc.ChatOpenAI(**{**settings, "temperature": 2, "seed": 5})
    city = await hot.with_structured_output(City, method="json_schema", strict=True).ainvoke("?")
    assert isinstance(city, City)


@pytest.mark.parametrize("strict", [None, True])
def test_structured_output_may_be_a_call_of_a_tool(chat: Any, strict: bool | None) -> None:
    asked = chat.with_structured_output(Weather, method="function_calling", strict=strict)
    assert isinstance(asked.invoke("How is the weather?"), Weather)


def test_a_plain_schema_and_json_mode_give_objects(lc: Any, settings: dict[str, Any]) -> None:
    schema = {"title": "city", **City.model_json_schema()}
    chat = lc.ChatOpenAI(**settings)
    found = chat.with_structured_output(schema, method="json_schema").invoke("Name a city.")
    assert City.model_validate(found)
    raw = chat.with_structured_output(None, method="json_mode", include_raw=True)
    answer = raw.invoke("Name a city, in JSON.")
    assert isinstance(json.loads(answer["raw"].content), dict)


@pytest.mark.parametrize("choice", ["required", "any", "Weather"])
def test_tools_are_called_and_their_results_read(chat: Any, choice: str) -> None:
    """Two rounds of calls, then a text."""
    caller = chat.bind_tools([Weather], tool_choice=choice, parallel_tool_calls=False)
    turns: list[Any] = [("human", "How is the weather in Oslo?")]
    for _ in range(2):
        answer = caller.invoke(turns)
        assert answer.response_metadata["finish_reason"] in ("tool_calls", "stop")
        assert answer.invalid_tool_calls == []
        (call,) = answer.tool_calls
        assert call["name"] == "Weather"
        assert Weather.model_validate(call["args"])
        turns += [answer, ToolMessage("Sunny.", tool_call_id=call["id"])]
    last = chat.bind_tools([Weather], tool_choice="none").invoke(turns)
    assert last.tool_calls == []
    assert last.content


async def test_calls_of_tools_are_streamed_in_pieces(chat: Any) -> None:
    caller = chat.bind_tools([Weather], tool_choice="required", parallel_tool_calls=False)
    whole = caller.invoke("How is the weather?")
    for chunks in (
        list(caller.stream("How is the weather?")),
        [chunk async for chunk in caller.astream("How is the weather?")],
    ):
        added = chunks[0]
        for chunk in chunks[1:]:
            added += chunk
        (call,) = added.tool_calls
        assert (call["name"], call["args"]) == ("Weather", whole.tool_calls[0]["args"])
        assert added.content == whole.content == ""


def test_several_calls_are_answered_together(chat: Any) -> None:
    turns: list[Any] = [("human", "How is the weather in Oslo and Rome?")]
    calls = [{"name": "Weather", "args": {"city": c, "days": 1}, "id": c} for c in ("Oslo", "Rome")]
    turns += [AIMessage("", tool_calls=calls)]
    turns += [ToolMessage(f"Sunny in {c}.", tool_call_id=c) for c in ("Rome", "Oslo")]
    assert chat.bind_tools([Weather], tool_choice="none").invoke(turns).content
    with pytest.raises(openai.BadRequestError, match="tool_calls"):
        chat.invoke(turns[:-1])


def test_texts_are_completed(lc: Any, settings: dict[str, Any]) -> None:
    llm = lc.OpenAI(**{**settings, "max_tokens": 8})
    text = llm.invoke("Once upon a time")
    assert text
    assert "".join(llm.stream("Once upon a time")) == text
    found = llm.generate(["Once upon a time", "One day,"])
    assert found.generations[0][0].text == text
    assert found.llm_output["token_usage"]["completion_tokens"] == 16


async def test_texts_become_vectors(
    lc: Any, settings: dict[str, Any], client: openai.OpenAI
) -> None:
    for unknown in ("temperature", "max_tokens"):
        del settings[unknown]
    # True would count tokens with a tokenizer from the network.
    embeddings = lc.OpenAIEmbeddings(**settings, check_embedding_ctx_length=False)
    texts = ["a cat", "a dog"]
    vectors = embeddings.embed_documents(texts)
    plain = client.embeddings.create(model="packaged", input=texts, encoding_format="float")
    assert vectors == [pytest.approx(item.embedding, abs=1e-6) for item in plain.data]
    assert await embeddings.aembed_query("a cat") == pytest.approx(vectors[0], abs=1e-6)


def test_the_responses_api_answers_and_goes_on(lc: Any, settings: dict[str, Any]) -> None:
    chat = lc.ChatOpenAI(**settings, use_responses_api=True, use_previous_response_id=True)
    first = chat.invoke(QUESTION)
    assert "Oslo" in first.text
    assert "".join(chunk.text for chunk in chat.stream(QUESTION)) == first.text
    second = chat.invoke([("human", QUESTION), first, ("human", "And of Italy?")])
    assert second.usage_metadata["input_tokens"] > first.usage_metadata["input_tokens"]
    city = chat.with_structured_output(City, method="json_schema").invoke("Name a city.")
    assert isinstance(city, City)


def test_the_responses_api_calls_tools(lc: Any, settings: dict[str, Any]) -> None:
    """One round of calls, then a text; each turn goes on from the stored one before it."""
    settings["max_tokens"] = 120
    chat = lc.ChatOpenAI(**settings, use_responses_api=True, use_previous_response_id=True)
    forced = chat.bind_tools([Weather], tool_choice="required", parallel_tool_calls=False)
    turns: list[Any] = [("human", "How is the weather in Oslo?")]
    answer = forced.invoke(turns)
    (call,) = answer.tool_calls
    assert Weather.model_validate(call["args"])
    chunks = list(forced.stream(turns))
    added = chunks[0]
    for chunk in chunks[1:]:
        added += chunk
    assert [call["args"] for call in added.tool_calls] == [call["args"]]
    turns += [answer, ToolMessage("Sunny.", tool_call_id=call["id"])]
    last = chat.bind_tools([Weather], tool_choice="none").invoke(turns)
    assert last.text
    assert last.tool_calls == []


def test_mistakes_have_their_classes(lc: Any, settings: dict[str, Any]) -> None:
    too_long = pytest.importorskip("langchain_core.exceptions").ContextOverflowError
    with pytest.raises(openai.NotFoundError):
        lc.ChatOpenAI(**{**settings, "model": "gpt-17"}).invoke(QUESTION)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        lc.ChatOpenAI(**{**settings, "temperature": 9}).invoke(QUESTION)
    with pytest.raises(too_long):
        lc.ChatOpenAI(**settings).invoke("word " * 4000)


def test_a_stream_that_is_left_is_aborted(
    lc: Any, settings: dict[str, Any], packaged: Server
) -> None:
    endless = {**settings, "max_tokens": 1900, "extra_body": {"ignore_eos": True}}
    stream = lc.ChatOpenAI(**endless).stream("Tell me a story.")
    next(stream)
    stream.close()
    pause = threading.Event()
    while packaged.stats()["vllm:num_requests_running"]:
        pause.wait(0.01)
