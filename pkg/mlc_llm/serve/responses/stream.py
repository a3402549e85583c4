"""The news of a chat answer as the events of a streamed response. Pure.

Items come one after the other: each begins, grows by deltas and ends before the next one begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from mlc_llm.protocol.messages import Delta, Finished
from mlc_llm.protocol.responses import ChatCompletionDelta, ChatToolCallDelta, LogProbsContent
from mlc_llm.protocol.responses_api import (
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    ItemEvent,
    OutputCall,
    OutputItem,
    OutputText,
    PartEvent,
    ReasoningDeltaEvent,
    ReasoningDoneEvent,
    ReasoningText,
    ResponseEvent,
    ResponseObject,
    StreamEvent,
    TextDeltaEvent,
    TextDoneEvent,
)
from mlc_llm.serve.answer.chunks import ChatChunks
from mlc_llm.serve.answer.delta import Answer
from mlc_llm.serve.answer.fold import Fold
from mlc_llm.serve.responses.output import (
    a_call,
    a_message,
    a_thought,
    call_item_id,
    ended,
    failed,
    is_whole_call,
    item_id,
)

THOUGHT, MESSAGE, CALL = "thought", "message", "call"
PREFIXES = {THOUGHT: "rs_", MESSAGE: "msg_"}
IN_PROGRESS = "in_progress"


class _Item:
    """The item that grows."""

    def __init__(self, kind: str, index: int, call: ChatToolCallDelta | None = None) -> None:
        self.kind = kind
        self.index = index
        self.call = call
        self.texts: list[str] = []
        self.logprobs: list[LogProbsContent] = []

    @property
    def text(self) -> str:
        return "".join(self.texts)


class ResponseStream:
    """The events of one streamed response: `begin`, then `add` and at the end `end` or `fail`."""

    def __init__(self, response: ResponseObject, answer: Answer) -> None:
        self.response = response
        self._chunks = ChatChunks(answer)
        self._fold = Fold(answer)
        self._number = 0
        self._item: _Item | None = None
        self._early: list[LogProbsContent] = []
        """Of tokens before the message."""
        self._output: list[OutputItem] = []
        """Items that have ended."""

    def begin(self) -> list[StreamEvent]:
        """The response is there, and is being worked on."""
        return [self._state("response.created"), self._state("response.in_progress")]

    def add(self, deltas: Sequence[Delta], finished: Sequence[Finished]) -> list[StreamEvent]:
        """What one step, or several, made of it."""
        self._fold.add(deltas, finished)
        return [
            event
            for chunk in self._chunks.add(deltas, finished)
            for choice in chunk.choices
            for event in self._delta(
                choice.delta, choice.logprobs.content if choice.logprobs else []
            )
        ]

    def end(self, now: int) -> list[StreamEvent]:
        """The whole response. Raises EngineUnavailable when the answer was given up."""
        response = ended(self.response, self._fold.chat(), now)
        events: list[StreamEvent] = []
        if self._item is None and not self._output:
            events += self._switch(MESSAGE)
        events += self._close(response.status)
        self.response = replace(response, output=self._output)
        return [*events, self._state(f"response.{response.status}")]

    def fail(self, error: BaseException) -> list[StreamEvent]:
        """There will be no more."""
        self.response = failed(self.response, error)
        return [self._state("response.failed")]

    def _delta(
        self, delta: ChatCompletionDelta, logprobs: list[LogProbsContent]
    ) -> Iterator[StreamEvent]:
        if delta.reasoning_content:
            yield from self._switch(THOUGHT)
            yield self._grow(delta.reasoning_content, [])
        if delta.content:
            yield from self._switch(MESSAGE)
            yield self._grow(delta.content, logprobs)
        elif not delta.reasoning_content and not delta.tool_calls:
            self._note(logprobs)
        for call in delta.tool_calls or ():
            if call.id is not None:
                yield from self._close("completed")
                yield from self._open(_Item(CALL, len(self._output), call))
            if call.function.arguments:
                yield self._grow(call.function.arguments, [])

    def _note(self, logprobs: list[LogProbsContent]) -> None:
        """Log-probabilities of tokens without text belong to the message, begun or not."""
        if self._item is not None and self._item.kind == MESSAGE:
            self._item.logprobs += logprobs
        else:
            self._early += logprobs

    def _switch(self, kind: str) -> Iterator[StreamEvent]:
        """Make sure that an item of this kind grows."""
        if self._item is None or self._item.kind != kind:
            yield from self._close("completed")
            yield from self._open(_Item(kind, len(self._output)))

    def _open(self, item: _Item) -> Iterator[StreamEvent]:
        self._item = item
        if item.kind == MESSAGE:
            item.logprobs, self._early = self._early, []
        shown = self._shown(item, IN_PROGRESS)
        if not isinstance(shown, OutputCall):
            shown = replace(shown, content=[])
        yield self._item_event("response.output_item.added", shown)
        if item.kind != CALL:
            yield self._part("response.content_part.added", item)

    def _grow(self, text: str, logprobs: list[LogProbsContent]) -> StreamEvent:
        item = self._item
        assert item is not None
        item.texts.append(text)
        item.logprobs += logprobs
        number, name = self._next(), self._id(item)
        if item.kind == CALL:
            return ArgumentsDeltaEvent(
                type="response.function_call_arguments.delta",
                sequence_number=number,
                item_id=name,
                output_index=item.index,
                delta=text,
            )
        if item.kind == THOUGHT:
            return ReasoningDeltaEvent(
                type="response.reasoning_text.delta",
                sequence_number=number,
                item_id=name,
                output_index=item.index,
                content_index=0,
                delta=text,
            )
        return TextDeltaEvent(
            type="response.output_text.delta",
            sequence_number=number,
            item_id=name,
            output_index=item.index,
            content_index=0,
            delta=text,
            logprobs=logprobs,
        )

    def _close(self, status: str) -> Iterator[StreamEvent]:
        """End the item that grows, if there is one."""
        item = self._item
        if item is None:
            return
        if item.kind == CALL:
            status = "completed" if is_whole_call(item.text) else "incomplete"
        yield self._done(item)
        if item.kind != CALL:
            yield self._part("response.content_part.done", item)
        shown = self._shown(item, status)
        yield self._item_event("response.output_item.done", shown)
        self._output.append(shown)
        self._item = None

    def _done(self, item: _Item) -> StreamEvent:
        number, name = self._next(), self._id(item)
        if item.kind == CALL:
            assert item.call is not None
            return ArgumentsDoneEvent(
                type="response.function_call_arguments.done",
                sequence_number=number,
                item_id=name,
                output_index=item.index,
                name=item.call.function.name or "",
                arguments=item.text,
            )
        if item.kind == THOUGHT:
            return ReasoningDoneEvent(
                type="response.reasoning_text.done",
                sequence_number=number,
                item_id=name,
                output_index=item.index,
                content_index=0,
                text=item.text,
            )
        return TextDoneEvent(
            type="response.output_text.done",
            sequence_number=number,
            item_id=name,
            output_index=item.index,
            content_index=0,
            text=item.text,
            logprobs=item.logprobs,
        )

    def _shown(self, item: _Item, status: str) -> OutputItem:
        if item.kind == THOUGHT:
            return a_thought(self.response, item.index, item.text, status)
        if item.kind == MESSAGE:
            return a_message(self.response, item.index, item.text, item.logprobs, status)
        assert item.call is not None
        call = item.call
        return a_call(call.id or "", call.function.name or "", item.text, status)

    def _id(self, item: _Item) -> str:
        if item.call is not None:
            return call_item_id(item.call.id or "")
        return item_id(self.response, PREFIXES[item.kind], item.index)

    def _next(self) -> int:
        number = self._number
        self._number += 1
        return number

    def _state(self, kind: str) -> ResponseEvent:
        return ResponseEvent(type=kind, sequence_number=self._next(), response=self.response)

    def _item_event(self, kind: str, shown: OutputItem) -> ItemEvent:
        assert self._item is not None
        return ItemEvent(
            type=kind, sequence_number=self._next(), output_index=self._item.index, item=shown
        )

    def _part(self, kind: str, item: _Item) -> PartEvent:
        part: OutputText | ReasoningText
        if item.kind == THOUGHT:
            part = ReasoningText(text=item.text)
        else:
            part = OutputText(text=item.text, annotations=[], logprobs=item.logprobs)
        return PartEvent(
            type=kind,
            sequence_number=self._next(),
            item_id=self._id(item),
            output_index=item.index,
            content_index=0,
            part=part,
        )
