"""OpenAI's Responses API: the request, the response object and the events of a stream."""

from __future__ import annotations

from typing import Any, Literal, get_args

from msgspec import Struct

from mlc_llm.protocol.responses import LogProbsContent, Object
from mlc_llm.protocol.service_fields import ServiceFields

# --- request ------------------------------------------------------------------------------


class InputPart(Struct, frozen=True, kw_only=True):
    """A part of a message: input_text, output_text, text, refusal or reasoning_text."""

    type: str
    text: str | None = None
    refusal: str | None = None


class InputItem(Struct, frozen=True, kw_only=True):
    """A message, a function call, the output of one, or what the model thought."""

    type: str | None = None
    """message (when left out), function_call, function_call_output or reasoning."""
    role: str | None = None
    content: str | list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None


class TextOptions(Struct, frozen=True, kw_only=True):
    """What the text must look like."""

    format: dict[str, Any] | None = None
    """type: text, json_object, or json_schema with name and schema beside it."""
    verbosity: Any = None


class ReasoningOptions(Struct, frozen=True, kw_only=True):
    """How much to think."""

    effort: str | None = None
    summary: Any = None


class ResponsesRequest(ServiceFields, frozen=True, kw_only=True):
    """The body of POST /v1/responses. None: not given, the model's default applies."""

    input: str | list[InputItem]
    model: str | None = None
    instructions: str | None = None
    """A system message for this response alone."""
    previous_response_id: str | None = None
    """Go on from a response that was stored."""
    store: bool | None = None
    """Whether to keep the response for later; default true."""
    stream: bool | None = None
    stream_options: Any = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    """message.output_text.logprobs adds log-probabilities; others have nothing to add here."""
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    tools: list[dict[str, Any]] | None = None
    """Function tools."""
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Any = None
    """Of tools that run on the server; there are none."""
    truncation: str | None = None
    """disabled is the only one: what does not fit is refused."""
    user: str | None = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    context_management: Any = None


# --- the response object ------------------------------------------------------------------


class OutputText(Object, frozen=True, tag_field="type", tag="output_text"):
    """What the model wrote."""

    text: str
    annotations: list[Any]
    logprobs: list[LogProbsContent]


class OutputMessage(Object, frozen=True, tag_field="type", tag="message"):
    """The assistant's message."""

    id: str
    role: Literal["assistant"]
    status: str
    content: list[OutputText]


class OutputCall(Object, frozen=True, tag_field="type", tag="function_call"):
    """A call of one of the tools."""

    id: str
    call_id: str
    name: str
    arguments: str
    """JSON."""
    status: str


class ReasoningText(Object, frozen=True, tag_field="type", tag="reasoning_text"):
    """A part of what the model thought."""

    text: str


class OutputReasoning(Object, frozen=True, tag_field="type", tag="reasoning"):
    """What the model thought before it answered."""

    id: str
    summary: list[Any]
    """None is made: the thoughts are there as they were."""
    content: list[ReasoningText]
    status: str


OutputItem = OutputReasoning | OutputMessage | OutputCall


class InputText(Object, frozen=True, tag_field="type", tag="input_text"):
    """A part of what the model was told."""

    text: str


class InputMessage(Object, frozen=True, tag_field="type", tag="message"):
    """A message of the user, the system or the developer."""

    id: str
    role: str
    status: str
    content: list[InputText]


class InputCallOutput(Object, frozen=True, tag_field="type", tag="function_call_output"):
    """What a call of a tool gave."""

    id: str
    call_id: str
    output: str
    status: str


StoredItem = InputMessage | InputCallOutput | OutputReasoning | OutputMessage | OutputCall


class ItemList(Object, frozen=True):
    """A page of the items that a response goes on from."""

    object: Literal["list"]
    data: list[Any]
    """Messages, calls of functions, their outputs and thoughts, as in `input`."""
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokens(Object, frozen=True):
    """How long the prompt of a request would be."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class InputTokensDetails(Object, frozen=True):
    """Where the input's tokens came from."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(Object, frozen=True):
    """What the output's tokens were spent on."""

    reasoning_tokens: int


class ResponseUsage(Object, frozen=True):
    """Tokens of one response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(Object, frozen=True):
    """Why there is no answer."""

    code: str
    message: str


class IncompleteDetails(Object, frozen=True):
    """Why the answer ends early."""

    reason: str


class ResponseObject(Object, frozen=True):
    """A response, whole or in the making."""

    id: str
    object: Literal["response"]
    created_at: int
    """Seconds since 1970."""
    status: str
    """in_progress, completed, incomplete or failed."""
    completed_at: int | None
    background: Literal[False]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, Any]
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    metadata: dict[str, Any]
    usage: ResponseUsage | None = None
    user: str | None = None


class DeletedResponse(Object, frozen=True):
    """A response that was stored and is no more."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


# --- the events of a stream ---------------------------------------------------------------


class ResponseEvent(Object, frozen=True):
    """The response as it is now: created, in_progress, completed, incomplete or failed."""

    type: str
    sequence_number: int
    response: ResponseObject


class ItemEvent(Object, frozen=True):
    """An item of the output begins (added) or is complete (done)."""

    type: str
    sequence_number: int
    output_index: int
    item: OutputItem


class PartEvent(Object, frozen=True):
    """A part of a message begins (added) or is complete (done)."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: OutputText | ReasoningText


class TextDeltaEvent(Object, frozen=True):
    """More text."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[LogProbsContent]


class TextDoneEvent(Object, frozen=True):
    """The whole text of a part."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[LogProbsContent]


class ReasoningDeltaEvent(Object, frozen=True):
    """More of what the model thinks."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str


class ReasoningDoneEvent(Object, frozen=True):
    """All that the model thought."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str


class ArgumentsDeltaEvent(Object, frozen=True):
    """More of the arguments of a call."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


class ArgumentsDoneEvent(Object, frozen=True):
    """The whole arguments of a call."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    name: str
    arguments: str


class ErrorEvent(Object, frozen=True):
    """The response failed after it had begun."""

    type: str
    sequence_number: int
    code: str | None
    message: str
    param: str | None


StreamEvent = (
    ResponseEvent
    | ItemEvent
    | PartEvent
    | TextDeltaEvent
    | TextDoneEvent
    | ReasoningDeltaEvent
    | ReasoningDoneEvent
    | ArgumentsDeltaEvent
    | ArgumentsDoneEvent
    | ErrorEvent
)
STREAM_EVENTS = get_args(StreamEvent)
