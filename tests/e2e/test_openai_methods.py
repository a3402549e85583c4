"""Every way the openai package has to call what is served: raw, streamed, parsed, asynchronous."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

from support.server import Server

MODEL = "packaged"
MESSAGES: list[Any] = [{"role": "user", "content": "What is the capital of Norway?"}]
CHAT: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": 40}
TEXT: dict[str, Any] = {"model": MODEL, "prompt": "Once upon a time", "temperature": 0}


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=20)
    population: int = Field(ge=0, le=100_000)


@pytest.fixture
async def hot(packaged: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=packaged.base_url, api_key="none", max_retries=0
    ) as client:
        yield client


def answer_of(client: openai.OpenAI) -> str:
    return client.chat.completions.create(**CHAT).choices[0].message.content or ""


def test_the_streaming_helper_gathers_the_answer(client: openai.OpenAI) -> None:
    kinds: list[str] = []
    with client.chat.completions.stream(**CHAT, stream_options={"include_usage": True}) as stream:
        for event in stream:
            kinds.append(event.type)
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= set(kinds)
    assert final.choices[0].message.content == answer_of(client)
    assert final.choices[0].finish_reason == "stop"
    assert final.usage is not None


def test_an_answer_is_parsed_whole_and_streamed(client: openai.OpenAI) -> None:
    asked = {**CHAT, "max_tokens": 90, "response_format": City}
    parsed = client.chat.completions.parse(**asked).choices[0].message.parsed
    assert isinstance(parsed, City)
    with client.chat.completions.stream(**asked) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.parsed == parsed


def test_what_is_cut_off_is_not_parsed(client: openai.OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**{**CHAT, "max_tokens": 2, "response_format": City})


def test_raw_answers_have_headers_and_parse_to_the_same(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**CHAT)
    assert raw.status_code == 200
    assert raw.headers["content-type"] == "application/json"
    answer = raw.parse()
    assert answer.choices[0].message.content == answer_of(client)
    assert answer._request_id == answer.id
    listed = client.models.with_raw_response.list()
    assert [model.id for model in listed.parse()] == [MODEL]
    vectors = client.embeddings.with_raw_response.create(model=MODEL, input=["a", "b"])
    assert len(vectors.parse().data) == 2


def test_raw_streams_are_read_line_by_line(client: openai.OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as raw:
        assert raw.headers["content-type"].startswith("text/event-stream")
        assert raw.request_id
        lines = [line for line in raw.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    pieces = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines[:-1]]
    assert "".join(piece["delta"].get("content") or "" for piece in pieces) == answer_of(client)
    with client.completions.with_streaming_response.create(**TEXT, max_tokens=4) as raw:
        assert json.loads(raw.read())["choices"][0]["finish_reason"] == "length"


async def test_the_asynchronous_client_does_all_of_it(
    hot: openai.AsyncOpenAI, client: openai.OpenAI
) -> None:
    whole = await hot.chat.completions.create(**CHAT)
    stream = await hot.chat.completions.create(**CHAT, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == whole.choices[0].message.content == answer_of(client)
    async with hot.chat.completions.stream(**CHAT) as helper:
        assert (await helper.get_final_completion()).choices[0].message.content == text
    parsed = await hot.chat.completions.parse(**{**CHAT, "max_tokens": 90, "response_format": City})
    assert isinstance(parsed.choices[0].message.parsed, City)
    assert [model.id async for model in hot.models.list()] == [MODEL]
    done = await hot.completions.create(**TEXT, max_tokens=4)
    parts = await hot.completions.create(**TEXT, max_tokens=4, stream=True)
    assert "".join([part.choices[0].text async for part in parts]) == done.choices[0].text
    response = await hot.responses.create(model=MODEL, input=MESSAGES, temperature=0)
    assert response.output_text == text
    async with hot.responses.stream(model=MODEL, input=MESSAGES, temperature=0) as events:
        assert (await events.get_final_response()).output_text == text
    assert (await hot.responses.retrieve(response.id)).output_text == text
    await hot.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        await hot.responses.retrieve(response.id)


def test_responses_are_parsed_and_raw(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(
        model=MODEL, input="Name a city.", text_format=City, temperature=0
    )
    assert isinstance(parsed.output_parsed, City)
    raw = client.responses.with_raw_response.create(model=MODEL, input="hi", max_output_tokens=3)
    assert raw.parse().status == "incomplete"
    with client.responses.stream(
        model=MODEL, input="Name a city.", text_format=City, temperature=0
    ) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_parsed == parsed.output_parsed
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


def test_vectors_come_as_numbers_whichever_way_they_travel(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model=MODEL, input="a cat")
    plain = client.embeddings.create(model=MODEL, input="a cat", encoding_format="float")
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-7)


def test_every_optional_argument_may_be_none(client: openai.OpenAI) -> None:
    nothing = dict.fromkeys(
        "audio best_of documents echo frequency_penalty function_call functions logit_bias "
        "logprobs max_completion_tokens max_tokens metadata min_tokens modalities n "
        "parallel_tool_calls prediction presence_penalty reasoning_effort response_format "
        "seed service_tier stop store stream stream_options suffix temperature tool_choice tools "
        "top_logprobs top_p user instructions previous_response_id include text reasoning "
        "truncation background max_output_tokens dimensions encoding_format".split()
    )
    assert client.chat.completions.create(
        model=MODEL, messages=MESSAGES, extra_body=nothing
    ).choices
    assert client.completions.create(
        model=MODEL, prompt="a", extra_body={**nothing, "max_tokens": 2}
    ).choices
    assert client.responses.create(model=MODEL, input="hi", extra_body=nothing).output
    assert client.embeddings.create(model=MODEL, input="hi", extra_body=nothing).data


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"model": "gpt-17"}, openai.NotFoundError),
        ({"temperature": 9}, openai.BadRequestError),
        ({"messages": []}, openai.BadRequestError),
        ({"stop": 5}, openai.BadRequestError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_mistakes_have_their_classes(
    client: openai.OpenAI, change: dict[str, Any], kind: type[openai.APIStatusError], stream: bool
) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**{**CHAT, **change, "stream": stream})
    assert caught.value.param == next(iter(change))
    assert caught.value.type == "invalid_request_error"
