"""A chat answer as OpenAI's response object: what it is, a response is too, under other names.

Pure.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from mlc_llm.errors import EngineUnavailable, MLCError
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.requests import ChatMessage
from mlc_llm.protocol.responses import ChatCompletionResponse, LogProbsContent, UsageInfo
from mlc_llm.protocol.responses_api import (
    IncompleteDetails,
    InputTokensDetails,
    OutputCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputText,
    OutputTokensDetails,
    ReasoningText,
    ResponseError,
    ResponseObject,
    ResponsesRequest,
    ResponseUsage,
)
from mlc_llm.serve.answer.delta import ABORTED, Answer

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
    message = choice.message
    calls = message.tool_calls or []
    output: list[OutputItem] = []
    if message.reasoning_content:
        thought_status = status if not (message.content or calls) else "completed"
        output.append(a_thought(response, 0, message.reasoning_content, thought_status))
    if message.content or not (calls or output):
        logprobs = choice.logprobs.content if choice.logprobs else []
        content = message.content or ""
        output.append(a_message(response, len(output), content, logprobs, status))
    output += [
        a_call(call.id, call.function.name, json_of(call.function.arguments), "completed")
        for call in calls
    ]
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
    """The output as a message of the history; calls that were cut off are not in it."""
    texts = [p.text for i in response.output if isinstance(i, OutputMessage) for p in i.content]
    calls = [
        {
            "id": item.call_id,
            "type": "function",
            "function": {"name": item.name, "arguments": item.arguments},
        }
        for item in response.output
        if isinstance(item, OutputCall) and is_whole_call(item.arguments)
    ]
    thoughts = [
        p.text for i in response.output if isinstance(i, OutputReasoning) for p in i.content
    ]
    message = {
        "role": "assistant",
        "content": "".join(texts) or (None if calls else ""),
        "tool_calls": calls or None,
        "reasoning_content": "".join(thoughts) or None,
    }
    return [msgspec.convert(message, ChatMessage)]


def item_id(response: ResponseObject, prefix: str, index: int) -> str:
    """The id of the item at this place of the output."""
    name = response.id.replace("resp_", prefix, 1)
    return name if index == 0 else f"{name}_{index}"


def call_item_id(call_id: str) -> str:
    """The id of the item that a call is."""
    return f"fc_{call_id}"


def a_thought(response: ResponseObject, index: int, text: str, status: str) -> OutputReasoning:
    """What the model thought, as an item of the output."""
    return OutputReasoning(
        id=item_id(response, "rs_", index),
        summary=[],
        content=[ReasoningText(text=text)],
        status=status,
    )


def a_message(
    response: ResponseObject, index: int, text: str, logprobs: list[LogProbsContent], status: str
) -> OutputMessage:
    """What the model said, as an item of the output."""
    part = OutputText(text=text, annotations=[], logprobs=logprobs)
    name = item_id(response, "msg_", index)
    return OutputMessage(id=name, role="assistant", status=status, content=[part])


def a_call(call_id: str, name: str, arguments: str, status: str) -> OutputCall:
    """A call of a tool, as an item of the output."""
    return OutputCall(
        id=call_item_id(call_id), call_id=call_id, name=name, arguments=arguments, status=status
    )


def is_whole_call(arguments: str) -> bool:
    """Whether the arguments of a call are all there."""
    try:
        return isinstance(msgspec.json.decode(arguments), dict)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False


def json_of(arguments: str | dict[str, Any]) -> str:
    """The arguments of a call as this API has them, whatever chats have."""
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()


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
