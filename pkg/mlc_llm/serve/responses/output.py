"""The news of a chat answer as OpenAI's response object and the events of its stream.

Pure. Stands on `serve.fold` and `serve.chunks`: what a chat answer is, a response is too, under
other names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from mlc_llm.errors import EngineUnavailable, MLCError
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import Delta, Finished
from mlc_llm.protocol.requests import ChatMessage
from mlc_llm.protocol.responses import ChatCompletionResponse, ChatToolCall, UsageInfo
from mlc_llm.protocol.responses_api import (
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    IncompleteDetails,
    InputTokensDetails,
    ItemEvent,
    OutputCall,
    OutputItem,
    OutputMessage,
    OutputText,
    OutputTokensDetails,
    PartEvent,
    ResponseError,
    ResponseEvent,
    ResponseObject,
    ResponsesRequest,
    ResponseUsage,
    StreamEvent,
    TextDeltaEvent,
    TextDoneEvent,
)
from mlc_llm.serve.answer.chunks import ChatChunks
from mlc_llm.serve.answer.delta import ABORTED, Answer
from mlc_llm.serve.answer.fold import Fold

GIVEN_UP = "The answer was given up before its end; send the request again."


def begun(request: ResponsesRequest, answer: Answer, config: GenerationConfig) -> ResponseObject:
    """The response before its first word."""
    metadata = request.metadata if isinstance(request.metadata, dict) else {}
    effort = request.reasoning.effort if request.reasoning else None
    return ResponseObject(
        id=answer.id,
        object="response",
        created_at=answer.created,
        status="in_progress",
        completed_at=None,
        background=False,
        error=None,
        incomplete_details=None,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=None,
        model=answer.model,
        output=[],
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        reasoning={"effort": effort, "summary": None},
        store=request.store is not False,
        temperature=config.temperature,
        text={"format": (request.text and request.text.format) or {"type": "text"}},
        tool_choice=request.tool_choice or "auto",
        tools=[_shown_tool(tool) for tool in request.tools or ()],
        top_logprobs=config.top_logprobs,
        top_p=config.top_p,
        truncation="disabled",
        usage=None,
        user=request.user,
        metadata=metadata,
    )


def _shown_tool(tool: dict[str, Any]) -> dict[str, Any]:
    """Both are required of a function tool in a response."""
    return {"strict": None, "parameters": None, **tool}


def ended(response: ResponseObject, answer: ChatCompletionResponse, now: int) -> ResponseObject:
    """The response that says what the chat answer says. Raises EngineUnavailable for no answer."""
    (choice,) = answer.choices
    if choice.finish_reason == ABORTED:
        raise EngineUnavailable(GIVEN_UP)
    is_cut = choice.finish_reason == "length"
    status = "incomplete" if is_cut else "completed"
    calls = choice.message.tool_calls or []
    output: list[OutputItem] = []
    if choice.message.content or not calls:
        logprobs = choice.logprobs.content if choice.logprobs else []
        text = OutputText(
            type="output_text",
            text=choice.message.content or "",
            annotations=[],
            logprobs=logprobs,
        )
        output.append(_message(response, [text], status))
    output += [_call(response, call, status) for call in calls]
    return replace(
        response,
        status=status,
        completed_at=None if is_cut else now,
        incomplete_details=IncompleteDetails(reason="max_output_tokens") if is_cut else None,
        output=output,
        usage=_usage(answer.usage),
    )


def failed(response: ResponseObject, error: BaseException) -> ResponseObject:
    """The response that says why there is none."""
    message = error.message if isinstance(error, MLCError) else "Internal server error."
    return replace(
        response, status="failed", error=ResponseError(code="server_error", message=message)
    )


def said(response: ResponseObject) -> list[ChatMessage]:
    """The output as a message of the history."""
    texts = [p.text for i in response.output if isinstance(i, OutputMessage) for p in i.content]
    calls = [
        {
            "id": item.call_id,
            "type": "function",
            "function": {"name": item.name, "arguments": item.arguments},
        }
        for item in response.output
        if isinstance(item, OutputCall)
    ]
    message = {"role": "assistant", "content": "".join(texts), "tool_calls": calls or None}
    return [msgspec.convert(message, ChatMessage)]


def _message(response: ResponseObject, content: list[OutputText], status: str) -> OutputMessage:
    name = response.id.replace("resp_", "msg_", 1)
    return OutputMessage(id=name, role="assistant", status=status, content=content)


def _call(response: ResponseObject, call: ChatToolCall, status: str) -> OutputCall:
    return OutputCall(
        id=f"fc_{call.id}",
        call_id=call.id,
        name=call.function.name,
        arguments=str(call.function.arguments),
        status=status,
    )


def _usage(usage: UsageInfo) -> ResponseUsage:
    cached, thought = usage.prompt_tokens_details, usage.completion_tokens_details
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(
            cached_tokens=cached.cached_tokens if cached else 0, cache_write_tokens=0
        ),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(
            reasoning_tokens=thought.reasoning_tokens if thought else 0
        ),
        total_tokens=usage.total_tokens,
    )


class ResponseStream:
    """The events of one streamed response: `begin`, then `add` and at the end `end` or `fail`."""

    def __init__(self, response: ResponseObject, answer: Answer) -> None:
        self.response = response
        self._chunks = ChatChunks(answer)
        self._fold = Fold(answer)
        self._number = 0
        self._writes = False
        """Whether the message has begun."""

    def begin(self) -> list[StreamEvent]:
        """The response is there, and is being worked on."""
        return [self._state("response.created"), self._state("response.in_progress")]

    def add(self, deltas: Sequence[Delta], finished: Sequence[Finished]) -> list[StreamEvent]:
        """What one step, or several, made of it."""
        events: list[StreamEvent] = []
        self._fold.add(deltas, finished)
        for chunk in self._chunks.add(deltas, finished):
            for choice in chunk.choices:
                text = choice.delta.content
                if text:
                    events += self._begin_message()
                    logprobs = choice.logprobs.content if choice.logprobs else []
                    events.append(
                        TextDeltaEvent(
                            type="response.output_text.delta",
                            sequence_number=self._next(),
                            item_id=self._item_id,
                            output_index=0,
                            content_index=0,
                            delta=text,
                            logprobs=logprobs,
                        )
                    )
        return events

    def end(self, now: int) -> list[StreamEvent]:
        """The whole response. Raises EngineUnavailable when the answer was given up."""
        self.response = ended(self.response, self._fold.chat(), now)
        events: list[StreamEvent] = []
        for index, item in enumerate(self.response.output):
            if isinstance(item, OutputMessage):
                events += [*self._begin_message(), *self._end_message(item)]
            else:
                events += self._whole_call(index, item)
        return [*events, self._state(f"response.{self.response.status}")]

    def fail(self, error: BaseException) -> list[StreamEvent]:
        """There will be no more."""
        self.response = failed(self.response, error)
        return [self._state("response.failed")]

    @property
    def _item_id(self) -> str:
        return _message(self.response, [], "").id

    def _next(self) -> int:
        number = self._number
        self._number += 1
        return number

    def _state(self, kind: str) -> ResponseEvent:
        return ResponseEvent(type=kind, sequence_number=self._next(), response=self.response)

    def _item(self, kind: str, index: int, item: OutputItem) -> ItemEvent:
        return ItemEvent(type=kind, sequence_number=self._next(), output_index=index, item=item)

    def _part(self, kind: str, part: OutputText) -> PartEvent:
        return PartEvent(
            type=kind,
            sequence_number=self._next(),
            item_id=self._item_id,
            output_index=0,
            content_index=0,
            part=part,
        )

    def _begin_message(self) -> list[StreamEvent]:
        """Nothing when it has begun."""
        if self._writes:
            return []
        self._writes = True
        empty = OutputText(type="output_text", text="", annotations=[], logprobs=[])
        message = _message(self.response, [], "in_progress")
        return [
            self._item("response.output_item.added", 0, message),
            self._part("response.content_part.added", empty),
        ]

    def _end_message(self, message: OutputMessage) -> list[StreamEvent]:
        (part,) = message.content
        whole = TextDoneEvent(
            type="response.output_text.done",
            sequence_number=self._next(),
            item_id=message.id,
            output_index=0,
            content_index=0,
            text=part.text,
            logprobs=part.logprobs,
        )
        return [
            whole,
            self._part("response.content_part.done", part),
            self._item("response.output_item.done", 0, message),
        ]

    def _whole_call(self, index: int, call: OutputCall) -> list[StreamEvent]:
        begun_call = replace(call, arguments="", status="in_progress")
        return [
            self._item("response.output_item.added", index, begun_call),
            ArgumentsDeltaEvent(
                type="response.function_call_arguments.delta",
                sequence_number=self._next(),
                item_id=call.id,
                output_index=index,
                delta=call.arguments,
            ),
            ArgumentsDoneEvent(
                type="response.function_call_arguments.done",
                sequence_number=self._next(),
                item_id=call.id,
                output_index=index,
                name=call.name,
                arguments=call.arguments,
            ),
            self._item("response.output_item.done", index, call),
        ]
