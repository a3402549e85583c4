"""News of a request as the chunks of a streamed answer.

Pure. One chunk speaks of one choice. The first of a choice names the role (chat) or repeats the
prompt (completions with echo), the last carries the reason why it ended; a delta that says nothing
makes none. With `Answer.include_usage` one more chunk, without choices, ends the stream.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from mlc_llm.protocol.messages import Delta, Finished, PromptToken, TokenLogprob
from mlc_llm.protocol.responses import (
    ChatCompletionDelta,
    ChatCompletionStreamResponse,
    ChatCompletionStreamResponseChoice,
    CompletionStreamResponse,
    CompletionStreamResponseChoice,
    UsageInfo,
)
from mlc_llm.serve.answer.delta import (
    ABORTED,
    FINISH_REASONS,
    Answer,
    chat_logprobs,
    usage_of,
)
from mlc_llm.serve.answer.prompt_logprobs import PromptReadings, begin_offsets, completion_logprobs
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
            self._delta(delta)
            for delta in deltas
            if delta.text or delta.logprobs or delta.finish_reason is not None
        ]
        for end in finished:
            self._finished.append(end)
            chunks += self._abandoned(end)
        if self.answer.include_usage and finished and self.done:
            usage = usage_of(self._finished, with_extra=self.answer.with_extra)
            chunks.append(self._usage(usage))
        return chunks

    @property
    def done(self) -> bool:
        """Whether every prompt has ended, so that no further chunk will come."""
        return len(self._finished) == len(self.answer.request_ids)

    def _delta(self, delta: Delta) -> ChunkT:
        choice = self.answer.choice_of(delta)
        reason = None
        if delta.finish_reason is not None:
            reason = FINISH_REASONS[delta.finish_reason]
            self._ended.add(choice)
        return self._chunk(choice, delta.text, reason, delta.logprobs)

    def _abandoned(self, end: Finished) -> list[ChunkT]:
        """Last chunks of the choices that the engine gave up without a last delta."""
        choices = [c for c in self.answer.choices_of(end.request_id) if c not in self._ended]
        self._ended.update(choices)
        return [self._chunk(choice, "", ABORTED, ()) for choice in choices]

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

    def _chunk(
        self, choice: int, text: str, reason: str | None, logprobs: tuple[TokenLogprob, ...]
    ) -> ChatCompletionStreamResponse:
        news = ChatCompletionStreamResponseChoice(
            finish_reason=reason,
            index=choice,
            delta=ChatCompletionDelta(
                content=text, role="assistant" if self._begins(choice) else None
            ),
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
