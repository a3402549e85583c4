"""News of a request as the chunks of a streamed answer.

Pure. One chunk speaks of one choice. The first of a choice names the role (chat) or repeats the
prompt (completions with echo), the last carries the reason why it ended; a delta that says nothing
makes none. Where the answer is read for thoughts and calls, each part that a delta makes certain is
a chunk of its own, and so is the end. With `Answer.include_usage` one more chunk, without choices,
ends the stream.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Literal, TypeVar, assert_never

from mlc_llm.protocol.messages import Delta, Finished, PromptToken, TokenLogprob
from mlc_llm.protocol.responses import (
    ChatCompletionDelta,
    ChatCompletionStreamResponse,
    ChatCompletionStreamResponseChoice,
    ChatCompletionTextDelta,
    ChatFunctionCallDelta,
    ChatToolCallDelta,
    CompletionStreamResponse,
    CompletionStreamResponseChoice,
    UsageInfo,
)
from mlc_llm.serve.answer.delta import (
    ABORTED,
    FINISH_REASONS,
    Answer,
    chat_logprobs,
    reason_of,
    usage_of,
)
from mlc_llm.serve.answer.prompt_logprobs import PromptReadings, begin_offsets, completion_logprobs
from mlc_llm.serve.answer.reading import (
    Arguments,
    Call,
    ChoiceReader,
    Part,
    Reading,
    Reasoning,
    Text,
)
from mlc_llm.serve.answer.text_offsets import TextOffsets

ChunkT = TypeVar("ChunkT", ChatCompletionStreamResponse, CompletionStreamResponse)


class Chunks(ABC, Generic[ChunkT]):
    """Turns deltas into chunks, remembering which choices have begun and which have ended."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self._begun: set[int] = set()
        self._ended: set[int] = set()
        self._finished: list[Finished] = []
        self._prompts = PromptReadings()

    def add(self, deltas: Sequence[Delta], finished: Sequence[Finished] = ()) -> list[ChunkT]:
        """The chunks for the news of one step, or of several."""
        for delta in deltas:
            self._prompts.add(delta)
        chunks = [
            chunk
            for delta in deltas
            if delta.text or delta.logprobs or delta.finish_reason is not None
            for chunk in self._delta(delta)
        ]
        for end in finished:
            self._finished.append(end)
            chunks += self._abandoned(end)
        if self.answer.include_usage and finished and self.done:
            usage = usage_of(
                self._finished,
                with_extra=self.answer.with_extra,
                reasoning_tokens=self._reasoning_tokens(),
            )
            chunks.append(self._usage(usage))
        return chunks

    @property
    def done(self) -> bool:
        """Whether every prompt has ended, so that no further chunk will come."""
        return len(self._finished) == len(self.answer.request_ids)

    def _delta(self, delta: Delta) -> list[ChunkT]:
        choice = self.answer.choice_of(delta)
        reason = None
        if delta.finish_reason is not None:
            reason = FINISH_REASONS[delta.finish_reason]
            self._ended.add(choice)
        return [self._chunk(choice, delta.text, reason, delta.logprobs)]

    def _abandoned(self, end: Finished) -> list[ChunkT]:
        """Last chunks of the choices that the engine gave up without a last delta."""
        choices = [c for c in self.answer.choices_of(end.request_id) if c not in self._ended]
        self._ended.update(choices)
        return [chunk for choice in choices for chunk in self._given_up(choice)]

    def _given_up(self, choice: int) -> list[ChunkT]:
        return [self._chunk(choice, "", ABORTED, ())]

    def _reasoning_tokens(self) -> int:
        return 0

    def _begins(self, choice: int) -> bool:
        """Whether this is the first chunk of the choice; asked once per chunk."""
        first = choice not in self._begun
        self._begun.add(choice)
        return first

    @abstractmethod
    def _chunk(
        self, choice: int, text: str, reason: str | None, logprobs: tuple[TokenLogprob, ...]
    ) -> ChunkT: ...

    @abstractmethod
    def _usage(self, usage: UsageInfo) -> ChunkT: ...


class ChatChunks(Chunks[ChatCompletionStreamResponse]):
    """Chunks of a chat answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self._readers: dict[int, ChoiceReader] = {}
        self._unsaid: dict[int, tuple[TokenLogprob, ...]] = {}
        """Log-probabilities of tokens whose text a reader withholds."""

    def _delta(self, delta: Delta) -> list[ChatCompletionStreamResponse]:
        if self.answer.reading is None:
            return super()._delta(delta)
        choice = self.answer.choice_of(delta)
        reader = self._reader(choice, self.answer.reading)
        parts = reader.feed(delta)
        self._unsaid[choice] = self._unsaid.get(choice, ()) + delta.logprobs
        chunks = [self._part(choice, part) for part in parts]
        if delta.finish_reason is not None:
            self._ended.add(choice)
            reason = reason_of(delta.finish_reason, reader.num_ended_calls)
            chunks.append(self._chunk(choice, "", reason, self._take_unsaid(choice)))
        return chunks

    def _given_up(self, choice: int) -> list[ChatCompletionStreamResponse]:
        """The reader may withhold some text of an answer that nobody ended."""
        reader = self._readers.get(choice)
        parts = reader.finish() if reader is not None else []
        chunks = [self._part(choice, part) for part in parts]
        return [*chunks, self._chunk(choice, "", ABORTED, self._take_unsaid(choice))]

    def _reader(self, choice: int, reading: Reading) -> ChoiceReader:
        reader = self._readers.get(choice)
        if reader is None:
            reader = ChoiceReader(reading, self.answer.id, choice, whole=False)
            self._readers[choice] = reader
        return reader

    def _reasoning_tokens(self) -> int:
        return sum(reader.num_reasoning_tokens for reader in self._readers.values())

    def _take_unsaid(self, choice: int) -> tuple[TokenLogprob, ...]:
        return self._unsaid.pop(choice, ())

    def _chunk(
        self, choice: int, text: str, reason: str | None, logprobs: tuple[TokenLogprob, ...]
    ) -> ChatCompletionStreamResponse:
        role: Literal["assistant"] | None = "assistant" if self._begins(choice) else None
        reader = self._readers.get(choice)
        delta: ChatCompletionDelta = ChatCompletionTextDelta(content=text, role=role)
        if reader is not None and reader.has_told_calls:
            delta = ChatCompletionDelta(content=text, role=role)
        return self._news(choice, delta, reason, logprobs)

    def _part(self, choice: int, part: Part) -> ChatCompletionStreamResponse:
        role: Literal["assistant"] | None = "assistant" if self._begins(choice) else None
        return self._news(choice, delta_of(part, role), None, self._take_unsaid(choice))

    def _news(
        self,
        choice: int,
        delta: ChatCompletionDelta,
        reason: str | None,
        logprobs: tuple[TokenLogprob, ...],
    ) -> ChatCompletionStreamResponse:
        news = ChatCompletionStreamResponseChoice(
            finish_reason=reason,
            index=choice,
            delta=delta,
            logprobs=chat_logprobs(logprobs) if logprobs and self.answer.logprobs else None,
        )
        return self._response([news], None)

    def _usage(self, usage: UsageInfo) -> ChatCompletionStreamResponse:
        return self._response([], usage)

    def _response(
        self, choices: list[ChatCompletionStreamResponseChoice], usage: UsageInfo | None
    ) -> ChatCompletionStreamResponse:
        return ChatCompletionStreamResponse(
            id=self.answer.id,
            choices=choices,
            created=self.answer.created,
            model=self.answer.model,
            system_fingerprint="",
            object="chat.completion.chunk",
            usage=usage,
        )


def delta_of(part: Part, role: Literal["assistant"] | None) -> ChatCompletionDelta:
    """A part of a message as OpenAI streams it."""
    match part:
        case Text(text=text):
            return ChatCompletionTextDelta(content=text, role=role)
        case Reasoning(text=text):
            return ChatCompletionDelta(role=role, reasoning_content=text, reasoning=text)
        case Call(index=index, id=call_id, name=name):
            call = ChatToolCallDelta(
                index=index,
                id=call_id,
                type="function",
                function=ChatFunctionCallDelta(name=name, arguments=""),
            )
        case Arguments(index=index, text=text):
            call = ChatToolCallDelta(index=index, function=ChatFunctionCallDelta(arguments=text))
        case _:
            assert_never(part)
    return ChatCompletionDelta(role=role, tool_calls=[call])


class CompletionChunks(Chunks[CompletionStreamResponse]):
    """Chunks of a completion."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self._offsets: dict[int, TextOffsets] = {}

    def _chunk(
        self, choice: int, text: str, reason: str | None, logprobs: tuple[TokenLogprob, ...]
    ) -> CompletionStreamResponse:
        answer = self.answer
        read: Sequence[PromptToken] = ()
        if self._begins(choice):
            echo = answer.echo_of(choice)
            read = self._prompts.of(answer.request_ids[choice // answer.n]) if answer.echo else ()
            self._offsets[choice] = begin_offsets(read, echo)
            text = echo + text
        shown = None
        if (logprobs or read) and answer.logprobs:
            shown = completion_logprobs(read, logprobs, self._offsets[choice])
        news = CompletionStreamResponseChoice(
            finish_reason=reason, index=choice, logprobs=shown, text=text
        )
        return self._response([news], None)

    def _usage(self, usage: UsageInfo) -> CompletionStreamResponse:
        return self._response([], usage)

    def _response(
        self, choices: list[CompletionStreamResponseChoice], usage: UsageInfo | None
    ) -> CompletionStreamResponse:
        return CompletionStreamResponse(
            id=self.answer.id,
            choices=choices,
            created=self.answer.created,
            model=self.answer.model,
            system_fingerprint="",
            object="text_completion",
            usage=usage,
        )
