"""litellm, unchanged, against the real server and the packaged model."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from support.mock_client import MockEngine, says_then_waits
from support.offline import QUIET, stay_on_loopback
from support.server import Server
from support.web import WebServer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Item .* on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_.*' attribute:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # it keeps its clients open
]

MESSAGES = [{"role": "user", "content": "What is the capital of Norway?"}]
SECONDS = 10


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=20)
    population: int = Field(ge=0, le=100_000)


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Oslo", "Rome"]
    days: int = Field(ge=1, le=9)


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": Weather.model_json_schema(),
        },
    }
]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    stay_on_loopback(monkeypatch)


@pytest.fixture(autouse=True, scope="module")
def forgotten() -> Iterator[None]:
    """What it keeps open is closed here, not under some later test."""
    yield
    if "litellm" in sys.modules:
        sys.modules["litellm"].in_memory_llm_clients_cache.flush_cache()
        gc.collect()


@pytest.fixture
def lite(offline: None) -> Any:
    """The package, loaded when its downloads are off."""
    found = pytest.importorskip("litellm", reason="drives the server with it")
    found.telemetry = False
    found.suppress_debug_info = True
    return found


@pytest.fixture
def where(packaged: Server) -> dict[str, Any]:
    return {
        "model": "openai/packaged",
        "api_base": packaged.base_url,
        "api_key": "none",
        "max_retries": 0,
    }


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "litellm_proxy"])
def test_an_answer_is_the_same_by_every_provider(
    lite: Any, where: dict[str, Any], provider: str
) -> None:
    where = {**where, "model": f"{provider}/packaged"}
    answer = lite.completion(messages=MESSAGES, temperature=0, max_tokens=40, **where)
    assert "Oslo" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_is_built_back_into_the_answer(lite: Any, where: dict[str, Any]) -> None:
    asked = {"messages": MESSAGES, "temperature": 0, "max_tokens": 40, **where}
    whole = lite.completion(**asked)
    options = {"include_usage": True}
    chunks = list(lite.completion(stream=True, stream_options=options, **asked))
    built = lite.stream_chunk_builder(chunks, messages=MESSAGES)
    assert built.choices[0].message.content == whole.choices[0].message.content
    assert built.choices[0].finish_reason == "stop"
    assert built.usage.completion_tokens == whole.usage.completion_tokens
    assert built.usage.prompt_tokens == whole.usage.prompt_tokens


async def test_asynchronous_calls_say_the_same(lite: Any, where: dict[str, Any]) -> None:
    asked = {"messages": MESSAGES, "temperature": 0, "max_tokens": 40, **where}
    whole = await lite.acompletion(**asked)
    stream = await lite.acompletion(stream=True, **asked)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == whole.choices[0].message.content


def test_structured_output_obeys_the_model(lite: Any, where: dict[str, Any]) -> None:
    asked = {"messages": MESSAGES, "max_tokens": 90, "temperature": 2, "seed": 3, **where}
    answer = lite.completion(response_format=City, **asked)
    assert City.model_validate_json(answer.choices[0].message.content)
    chunks = lite.completion(response_format=City, stream=True, **asked)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == answer.choices[0].message.content
    anything = lite.completion(
        response_format={"type": "json_object"}, **{**asked, "temperature": 0}
    )
    assert isinstance(json.loads(anything.choices[0].message.content), dict)


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_tools_are_called_and_their_results_read(
    lite: Any, where: dict[str, Any], provider: str
) -> None:
    """Two rounds of calls, then a text."""
    asked = {**where, "model": f"{provider}/packaged", "tools": TOOLS, "temperature": 0}
    forced = {"tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 90}
    turns: list[Any] = list(MESSAGES)
    for _ in range(2):
        (choice,) = lite.completion(messages=turns, **asked, **forced).choices
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls
        assert call.function.name == "weather"
        assert Weather.model_validate_json(call.function.arguments)
        turns += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}]
    (last,) = lite.completion(messages=turns, tool_choice="none", max_tokens=40, **asked).choices
    assert last.message.tool_calls is None
    assert last.message.content


async def test_calls_of_tools_are_streamed_in_pieces(lite: Any, where: dict[str, Any]) -> None:
    asked = {
        "messages": MESSAGES, "tools": TOOLS, "tool_choice": "required", "temperature": 0,
        "parallel_tool_calls": False, "max_tokens": 90, **where,
    }  # fmt: skip
    whole = lite.completion(**asked).choices[0].message.tool_calls[0].function
    chunks = list(lite.completion(stream=True, **asked))
    hot = [chunk async for chunk in await lite.acompletion(stream=True, **asked)]
    for pieces in (chunks, hot):
        (choice,) = lite.stream_chunk_builder(pieces, messages=MESSAGES).choices
        (call,) = choice.message.tool_calls
        assert (call.function.name, call.function.arguments) == (whole.name, whole.arguments)
        assert choice.finish_reason == "tool_calls"


def test_texts_are_completed_and_become_vectors(lite: Any, where: dict[str, Any]) -> None:
    texts = {**where, "model": "text-completion-openai/packaged"}
    done = lite.text_completion(prompt="Once upon a time", max_tokens=5, temperature=0, **texts)
    assert done.choices[0].finish_reason == "length"
    assert done.usage.completion_tokens == 5
    found = lite.embedding(input=["a", "b"], **where)
    assert [item["index"] for item in found.data] == [0, 1]
    assert len(found.data[0]["embedding"]) == len(found.data[1]["embedding"]) > 0


def test_the_responses_api_answers_and_goes_on(lite: Any, where: dict[str, Any]) -> None:
    asked = {"max_output_tokens": 40, "temperature": 0, **where}
    first = lite.responses(input=MESSAGES[0]["content"], **asked)
    assert first.status == "completed"
    assert "Oslo" in first.output_text
    *_, last = lite.responses(input=MESSAGES[0]["content"], stream=True, **asked)
    assert last.response.output_text == first.output_text
    second = lite.responses(input="And of Italy?", previous_response_id=first.id, **asked)
    assert second.usage.input_tokens > first.usage.input_tokens


def test_the_server_is_asked_what_it_serves(lite: Any, packaged: Server) -> None:
    found = lite.get_valid_models(
        check_provider_endpoint=True,
        custom_llm_provider="openai",
        api_base=packaged.base_url,
        api_key="none",
    )
    assert found == ["packaged"]


def test_mistakes_have_their_classes(lite: Any, where: dict[str, Any]) -> None:
    asked = {"messages": MESSAGES, "max_tokens": 4, **where}
    with pytest.raises(lite.NotFoundError):
        lite.completion(**{**asked, "model": "openai/gpt-17"})
    with pytest.raises(lite.BadRequestError, match="temperature"):
        lite.completion(temperature=9, **asked)
    with pytest.raises(lite.ContextWindowExceededError):
        lite.completion(**{**asked, "messages": [{"role": "user", "content": "word " * 4000}]})


def test_a_wrong_key_a_busy_server_and_a_slow_one_are_told_apart(lite: Any) -> None:
    def ask(web: WebServer, **more: Any) -> Any:
        base = {"model": "openai/mock", "api_base": f"{web.url}/v1", "api_key": "k"}
        return lite.completion(messages=MESSAGES, max_retries=0, **{**base, **more})

    with WebServer(MockEngine(says_then_waits("a")), api_keys=("k",)) as web:
        with pytest.raises(lite.AuthenticationError):
            ask(web, api_key="wrong")
        with pytest.raises(lite.Timeout):
            ask(web, timeout=0.2)
        assert web.engine.was_closed.wait(SECONDS)
        assert web.engine.aborted == [submit.request_id for submit in web.engine.submitted]
        web.engine.problem = "The engine is starting."
        with pytest.raises(lite.ServiceUnavailableError):
            ask(web)
