"""`engine.chat.completions.create` and `engine.completions.create`, for both engines.

The keywords are the request's fields, checked as the body of a REST request is. Besides them there
are `request_id` (the name for `engine.abort`) and `extra_body` (more fields, as OpenAI's client has
it).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, Protocol, Required, TypedDict, Unpack, overload
from uuid import uuid4

from mlc_llm.protocol.messages import Submit
from mlc_llm.protocol.requests import ChatCompletionRequest, CompletionRequest, from_arguments
from mlc_llm.protocol.responses import (
    ChatCompletionResponse,
    ChatCompletionStreamResponse,
    CompletionResponse,
    CompletionStreamResponse,
    Object,
)
from mlc_llm.serve.answer.chunks import ChatChunks, CompletionChunks
from mlc_llm.serve.answer.delta import Answer
from mlc_llm.serve.answer.fold import Fold
from mlc_llm.serve.answer_stream import AnswerStream, AsyncAnswerStream
from mlc_llm.serve.running import RunningEngine, Source


class Prepared(Protocol):
    """A request that may go to the engine."""

    @property
    def submits(self) -> tuple[Submit, ...]: ...
    @property
    def answer(self) -> Answer: ...


class TextSide(Protocol):
    """From a request to what the engine is asked, in the client's loop. Raises `BadRequest`."""

    async def chat(self, request: ChatCompletionRequest, request_id: str) -> Prepared: ...
    async def completion(self, request: CompletionRequest, request_id: str) -> Prepared: ...


Ask = Callable[[], Awaitable[Prepared]]
"""A request whose fields have been read; calling it makes the rest of it ready."""


class GenerationArguments(TypedDict, total=False):
    """Keywords of both endpoints; None means not given."""

    model: str | None
    """The name the engine was made with, its last part, or nothing."""
    max_tokens: int | None
    n: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repetition_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | list[str] | None
    stop_token_ids: list[int] | None
    min_tokens: int | None
    ignore_eos: bool | None
    allowed_token_ids: list[int] | None
    bad_words: list[str] | None
    include_stop_str_in_output: bool | None
    skip_special_tokens: bool | None
    add_special_tokens: bool | None
    truncate_prompt_tokens: int | None
    prompt_logprobs: int | None
    logprobs: bool | int | None
    top_logprobs: int | None
    stream_options: Mapping[str, Any] | None
    response_format: Mapping[str, Any] | None
    structured_outputs: Mapping[str, Any] | None
    guided_json: Mapping[str, Any] | str | bool | None
    guided_regex: str | None
    guided_choice: list[str] | None
    guided_grammar: str | None
    user: str | None
    debug_config: Mapping[str, Any] | None
    request_id: str | None
    extra_body: Mapping[str, Any] | None


class ChatArguments(GenerationArguments, total=False):
    """Keywords of `chat.completions.create`."""

    messages: Required[Iterable[Any]]
    max_completion_tokens: int | None
    tools: list[dict[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    reasoning_effort: str | None
    thinking_token_budget: int | None
    include_reasoning: bool | None
    documents: list[dict[str, Any]] | None
    add_generation_prompt: bool | None
    continue_final_message: bool | None
    chat_template_kwargs: Mapping[str, Any] | None


class CompletionArguments(GenerationArguments, total=False):
    """Keywords of `completions.create`."""

    prompt: Required[str | list[str] | list[int] | list[list[int]]]
    best_of: int | None
    echo: bool | None
    suffix: str | None


class _Endpoint:
    """What the four classes below have in common."""

    def __init__(self, engine: RunningEngine, text: TextSide) -> None:
        self._engine = engine
        self._text = text

    def _chat(self, stream: bool, arguments: Mapping[str, Any]) -> Ask:
        fields, request_id = _fields(arguments, ChatArguments.__annotations__)
        messages = fields.get("messages")
        if isinstance(messages, Iterable) and not isinstance(messages, str | bytes | Mapping):
            # An answer's message may be given back as it came.
            fields["messages"] = [m.model_dump() if isinstance(m, Object) else m for m in messages]
        request = from_arguments(ChatCompletionRequest, {**fields, "stream": stream})
        return partial(self._text.chat, request, request_id or f"chatcmpl-{uuid4().hex}")

    def _completion(self, stream: bool, arguments: Mapping[str, Any]) -> Ask:
        fields, request_id = _fields(arguments, CompletionArguments.__annotations__)
        request = from_arguments(CompletionRequest, {**fields, "stream": stream})
        return partial(self._text.completion, request, request_id or f"cmpl-{uuid4().hex}")

    async def _fold(self, ask: Ask) -> Fold:
        """In the client's loop: the whole answer."""
        prepared = await ask()
        return await self._engine.fold(prepared.submits, prepared.answer)

    async def _open(self, ask: Ask) -> Source:
        """In the client's loop: the answer's news."""
        prepared = await ask()
        return self._engine.open(prepared.submits, prepared.answer)


def _fields(
    arguments: Mapping[str, Any], known: Mapping[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """The request's fields and its id. Raises `TypeError` as Python does for a wrong keyword."""
    for name in arguments:
        if name not in known:
            raise TypeError(f"create() got an unexpected keyword argument {name!r}")
    fields = {name: value for name, value in arguments.items() if value is not None}
    request_id = fields.pop("request_id", None)
    return {**fields, **fields.pop("extra_body", {})}, request_id


class ChatCompletions(_Endpoint):
    """`MLCEngine.chat.completions`."""

    @overload
    def create(
        self, *, stream: Literal[False] = False, **arguments: Unpack[ChatArguments]
    ) -> ChatCompletionResponse: ...
    @overload
    def create(
        self, *, stream: Literal[True], **arguments: Unpack[ChatArguments]
    ) -> AnswerStream[ChatCompletionStreamResponse]: ...
    def create(
        self, *, stream: bool = False, **arguments: Unpack[ChatArguments]
    ) -> ChatCompletionResponse | AnswerStream[ChatCompletionStreamResponse]:
        """Answer a conversation. Raises `BadRequest`, `EngineUnavailable`, `EngineFault`."""
        ask = self._chat(stream, arguments)
        if not stream:
            return self._engine.run(self._fold(ask)).chat()
        source = self._engine.run(self._open(ask))
        return AnswerStream(source, ChatChunks(source.answer))


class Completions(_Endpoint):
    """`MLCEngine.completions`."""

    @overload
    def create(
        self, *, stream: Literal[False] = False, **arguments: Unpack[CompletionArguments]
    ) -> CompletionResponse: ...
    @overload
    def create(
        self, *, stream: Literal[True], **arguments: Unpack[CompletionArguments]
    ) -> AnswerStream[CompletionStreamResponse]: ...
    def create(
        self, *, stream: bool = False, **arguments: Unpack[CompletionArguments]
    ) -> CompletionResponse | AnswerStream[CompletionStreamResponse]:
        """Continue a text. Raises `BadRequest`, `EngineUnavailable`, `EngineFault`."""
        ask = self._completion(stream, arguments)
        if not stream:
            return self._engine.run(self._fold(ask)).completion()
        source = self._engine.run(self._open(ask))
        return AnswerStream(source, CompletionChunks(source.answer))


class AsyncChatCompletions(_Endpoint):
    """`AsyncMLCEngine.chat.completions`."""

    @overload
    async def create(
        self, *, stream: Literal[False] = False, **arguments: Unpack[ChatArguments]
    ) -> ChatCompletionResponse: ...
    @overload
    async def create(
        self, *, stream: Literal[True], **arguments: Unpack[ChatArguments]
    ) -> AsyncAnswerStream[ChatCompletionStreamResponse]: ...
    async def create(
        self, *, stream: bool = False, **arguments: Unpack[ChatArguments]
    ) -> ChatCompletionResponse | AsyncAnswerStream[ChatCompletionStreamResponse]:
        """Answer a conversation. Raises `BadRequest`, `EngineUnavailable`, `EngineFault`."""
        ask = self._chat(stream, arguments)
        if not stream:
            return (await self._engine.run_async(self._fold(ask))).chat()
        source = await self._engine.run_async(self._open(ask))
        return AsyncAnswerStream(source, ChatChunks(source.answer))


class AsyncCompletions(_Endpoint):
    """`AsyncMLCEngine.completions`."""

    @overload
    async def create(
        self, *, stream: Literal[False] = False, **arguments: Unpack[CompletionArguments]
    ) -> CompletionResponse: ...
    @overload
    async def create(
        self, *, stream: Literal[True], **arguments: Unpack[CompletionArguments]
    ) -> AsyncAnswerStream[CompletionStreamResponse]: ...
    async def create(
        self, *, stream: bool = False, **arguments: Unpack[CompletionArguments]
    ) -> CompletionResponse | AsyncAnswerStream[CompletionStreamResponse]:
        """Continue a text. Raises `BadRequest`, `EngineUnavailable`, `EngineFault`."""
        ask = self._completion(stream, arguments)
        if not stream:
            return (await self._engine.run_async(self._fold(ask))).completion()
        source = await self._engine.run_async(self._open(ask))
        return AsyncAnswerStream(source, CompletionChunks(source.answer))


class Chat:
    """`MLCEngine.chat`."""

    def __init__(self, engine: RunningEngine, text: TextSide) -> None:
        self.completions = ChatCompletions(engine, text)


class AsyncChat:
    """`AsyncMLCEngine.chat`."""

    def __init__(self, engine: RunningEngine, text: TextSide) -> None:
        self.completions = AsyncChatCompletions(engine, text)
