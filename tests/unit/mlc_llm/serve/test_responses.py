"""Responses are what OpenAI's own client and published schema expect."""

from __future__ import annotations

from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from mlc_llm.protocol.messages import Delta, Finished, FinishReason, TokenLogprob
from mlc_llm.protocol.responses import ModelResponse
from mlc_llm.serve.answer.chunks import ChatChunks, CompletionChunks
from mlc_llm.serve.answer.delta import Answer
from mlc_llm.serve.answer.fold import Fold
from support.openapi import Schemas
from support.shared import shared_path

ANSWER = Answer(
    id="x", model="m", created=7, request_ids=("r",), n=2, logprobs=True, include_usage=True
)
LOGPROBS = (TokenLogprob(b"a", -0.5, ((b"a", -0.5), (b"\xe6", -1.5))),)
NEWS = [
    Delta("r", 0, "a", 1, logprobs=LOGPROBS),
    Delta("r", 1, "b", 1, FinishReason.LENGTH, LOGPROBS),
    Delta("r", 0, "", 1, FinishReason.STOP),
]
END = [Finished("r", 3, 2, cached_tokens=1)]


def schemas() -> Schemas:
    return Schemas(shared_path("data/suites/openai_openapi.yaml"))


def folded() -> Fold:
    fold = Fold(ANSWER)
    fold.add(NEWS, END)
    return fold


def test_a_chat_answer_follows_the_published_schema() -> None:
    schemas().check("CreateChatCompletionResponse", folded().chat().model_dump())


def test_chat_chunks_follow_the_published_schema() -> None:
    published = schemas()
    for chunk in ChatChunks(ANSWER).add(NEWS, END):
        published.check("CreateChatCompletionStreamResponse", chunk.model_dump())


def test_a_completion_follows_the_published_schema() -> None:
    schemas().check("CreateCompletionResponse", folded().completion().model_dump())


def test_a_model_follows_the_published_schema() -> None:
    model = ModelResponse(id="m", created=7, object="model", owned_by="MLC-LLM")
    schemas().check("Model", model.model_dump())


def test_the_schema_check_notices_what_is_wrong() -> None:
    published = schemas()
    broken = folded().chat().model_dump()
    del broken["choices"][0]["message"]["refusal"]
    assert published.problems("CreateChatCompletionResponse", broken)
    broken = folded().chat().model_dump()
    broken["choices"][0]["finish_reason"] = "tired"
    assert published.problems("CreateChatCompletionResponse", broken)


def test_openai_s_client_understands_every_object() -> None:
    chat = ChatCompletion.model_validate(folded().chat().model_dump())
    assert chat.choices[1].message.content == "b"
    assert chat.usage is not None
    assert chat.usage.total_tokens == 5
    chunks = [
        ChatCompletionChunk.model_validate(c.model_dump())
        for c in ChatChunks(ANSWER).add(NEWS, END)
    ]
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []
    completion = Completion.model_validate(folded().completion().model_dump())
    assert completion.choices[0].logprobs is not None
    assert completion.choices[0].logprobs.tokens == ["a"]
    text = [c.model_dump() for c in CompletionChunks(ANSWER).add(NEWS, END)]
    assert [c["object"] for c in text] == ["text_completion"] * 4
    Model.model_validate(
        ModelResponse(id="m", created=7, object="model", owned_by="MLC-LLM").model_dump()
    )


def test_json_and_plain_data_are_the_same() -> None:
    assert (
        ChatCompletion.model_validate_json(folded().chat().model_dump_json()).model_dump()
        == ChatCompletion.model_validate(folded().chat().model_dump()).model_dump()
    )
