"""All news of a request, folded into the one object that an answer without streaming is.

Pure. Folding does not depend on how the engine cut the text into deltas; `serve.chunks` is the
other way to look at the same news, and the two agree (see their property test).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from mlc_llm.protocol.messages import Delta, Finished, TokenLogprob
from mlc_llm.protocol.responses import (
    ChatCompletionMessage,
    ChatCompletionResponse,
    ChatCompletionResponseChoice,
    ChatFunctionCall,
    ChatToolCall,
    CompletionResponse,
    CompletionResponseChoice,
    PromptLogprobs,
)
from mlc_llm.serve.answer.delta import (
    ABORTED,
    Answer,
    chat_logprobs,
    reason_of,
    usage_of,
)
from mlc_llm.serve.answer.prompt_logprobs import (
    PromptReadings,
    begin_offsets,
    completion_logprobs,
    prompt_logprobs,
)
from mlc_llm.serve.answer.reading import ChoiceReader, Message
from mlc_llm.serve.parsers import ToolArguments


class _Choice:
    """One choice so far."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason = ABORTED
        self._reader: ChoiceReader | None = None
        self._message = Message()

    def read_by(self, reader: ChoiceReader) -> None:
        """Read the text for thoughts and calls."""
        self._reader = reader

    def add(self, delta: Delta) -> None:
        self.texts.append(delta.text)
        self.logprobs += delta.logprobs
        if self._reader is not None:
            for part in self._reader.feed(delta):
                self._message.add(part)
        if delta.finish_reason is not None:
            num_calls = self._reader.num_ended_calls if self._reader is not None else 0
            self.finish_reason = reason_of(delta.finish_reason, num_calls)

    def message(self, arguments: ToolArguments) -> ChatCompletionMessage:
        """The chat message that was said."""
        if self._reader is None:
            return ChatCompletionMessage(content=self.text, role="assistant", refusal=None)
        if self.finish_reason == ABORTED:
            for part in self._reader.finish():
                self._message.add(part)
        said = self._message
        calls = [
            ChatToolCall(
                id=call.id,
                type="function",
                function=ChatFunctionCall(
                    name=call.name,
                    arguments=msgspec.json.decode(text) if arguments == "object" else text,
                ),
            )
            for call, text in said.calls
        ]
        return ChatCompletionMessage(
            content=said.content or (None if calls else ""),
            role="assistant",
            refusal=None,
            tool_calls=calls or None,
            reasoning_content=said.reasoning or None,
            reasoning=said.reasoning or None,
        )

    @property
    def num_reasoning_tokens(self) -> int:
        return self._reader.num_reasoning_tokens if self._reader is not None else 0

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def likelihood(self) -> float:
        """Mean log-probability of its tokens."""
        if not self.logprobs:
            return -math.inf
        return sum(token.logprob for token in self.logprobs) / len(self.logprobs)


class Fold:
    """Collects what `Answer.request_ids` produce."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self._choices = [_Choice() for _ in range(answer.num_choices)]
        if answer.reading is not None:
            for index, choice in enumerate(self._choices):
                choice.read_by(ChoiceReader(answer.reading, answer.id, index, whole=True))
        self._prompts = PromptReadings()
        self._finished: list[Finished] = []

    def add(self, deltas: Iterable[Delta], finished: Iterable[Finished] = ()) -> None:
        """Take in the news of one step, or of several."""
        for delta in deltas:
            self._choices[self.answer.choice_of(delta)].add(delta)
            self._prompts.add(delta)
        self._finished += finished

    def chat(self) -> ChatCompletionResponse:
        """The chat answer; a choice that never ended was aborted."""
        answer = self.answer
        arguments = answer.reading.arguments if answer.reading is not None else "string"
        return ChatCompletionResponse(
            id=answer.id,
            choices=[
                ChatCompletionResponseChoice(
                    finish_reason=choice.finish_reason,
                    index=index,
                    message=choice.message(arguments),
                    logprobs=chat_logprobs(choice.logprobs) if answer.logprobs else None,
                )
                for index, choice in enumerate(self._choices)
            ],
            created=answer.created,
            model=answer.model,
            system_fingerprint="",
            object="chat.completion",
            usage=usage_of(
                self._finished,
                with_extra=answer.with_extra,
                reasoning_tokens=sum(choice.num_reasoning_tokens for choice in self._choices),
            ),
            prompt_logprobs=self._prompt_logprobs(answer.request_ids[0]),
        )

    def completion(self) -> CompletionResponse:
        """The completion answer; a choice that never ended was aborted."""
        answer = self.answer
        return CompletionResponse(
            id=answer.id,
            choices=[
                self._completion_choice(index, choice) for index, choice in enumerate(self._shown())
            ],
            created=answer.created,
            model=answer.model,
            system_fingerprint="",
            object="text_completion",
            usage=usage_of(self._finished, with_extra=answer.with_extra),
        )

    def _shown(self) -> list[_Choice]:
        """The choices to show: of each prompt the likeliest by mean log-probability."""
        n, shown = self.answer.n, self.answer.shown or self.answer.n
        if shown == n:
            return self._choices
        prompts = [self._choices[i : i + n] for i in range(0, len(self._choices), n)]
        return [
            choice
            for choices in prompts
            for choice in sorted(choices, key=_Choice.likelihood, reverse=True)[:shown]
        ]

    def _completion_choice(self, index: int, choice: _Choice) -> CompletionResponseChoice:
        answer = self.answer
        prompt = index // (answer.shown or answer.n)
        echo = answer.echo_of(prompt * answer.n)
        logprobs = None
        if answer.logprobs:
            read = self._prompts.of(answer.request_ids[prompt]) if answer.echo else []
            offsets = begin_offsets(read, echo)
            logprobs = completion_logprobs(read, choice.logprobs, offsets)
        return CompletionResponseChoice(
            finish_reason=choice.finish_reason,
            index=index,
            logprobs=logprobs,
            text=echo + choice.text,
            prompt_logprobs=self._prompt_logprobs(answer.request_ids[prompt]),
        )

    def _prompt_logprobs(self, request_id: str) -> PromptLogprobs | None:
        if not self.answer.prompt_logprobs:
            return None
        return prompt_logprobs(self._prompts.of(request_id))
