"""What users ask for: OpenAI's request bodies, with what MLC LLM's users send as well.

Only shapes are known here; ranges and what is supported are `serve.validate`'s business. Unknown
fields are ignored, known ones must have their type, and every mistake is a BadRequest whose `param`
is the path of the field ("messages.0.role").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.sampling_fields import SamplingFields

ROLES = ("system", "developer", "user", "assistant", "tool")

TEXT_PARTS = ("text", "input_text", "output_text")
"""Parts whose `text` is text; the Responses API's names of them are taken everywhere."""


class ContentPart(Struct, frozen=True, kw_only=True):
    """One part of a message; only text parts can be read, others are known by their type."""

    type: Annotated[str, Meta(extra_json_schema={"enum": [*TEXT_PARTS, "refusal"]})]
    text: str | None = None
    refusal: str | None = None
    """What an assistant said instead, in parts of that type."""


class FunctionCall(Struct, frozen=True, kw_only=True):
    """The function a model asked for; `arguments` is JSON text, or the object itself."""

    name: str
    arguments: str | dict[str, Any] | None = None


class ToolCall(Struct, frozen=True, kw_only=True):
    """A call in an assistant message of the history."""

    function: FunctionCall
    id: str | None = None
    type: str | None = "function"


class ChatMessage(Struct, frozen=True, kw_only=True):
    """One message of the conversation so far."""

    role: Annotated[str, Meta(extra_json_schema={"enum": list(ROLES)})]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    """What the assistant thought; most templates leave it out of earlier turns."""
    reasoning: str | None = None
    """Another name of `reasoning_content`."""


class StreamOptions(Struct, frozen=True, kw_only=True):
    """What a stream holds beside the text."""

    include_usage: bool | None = None


JSONSchema = dict[str, Any] | str | bool
"""A schema, or a string that holds one."""


class JSONSchemaFormat(Struct, frozen=True, kw_only=True):
    """OpenAI's `response_format.json_schema`; the schema is enforced whether or not `strict`."""

    schema: JSONSchema | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Struct, frozen=True, kw_only=True):
    """What the answer must look like: any text, a JSON object, JSON that obeys a schema, or text
    with such JSON between marks."""

    type: Annotated[
        str,
        Meta(extra_json_schema={"enum": ["text", "json_object", "json_schema", "structural_tag"]}),
    ]
    json_schema: JSONSchemaFormat | None = None
    """OpenAI's place for the schema."""
    schema: JSONSchema | None = None
    """MLC LLM's place for it."""
    structures: list[dict[str, Any]] | None = None
    """For `structural_tag`, as vLLM has it: objects with `begin`, `schema` and `end`."""
    triggers: list[str] | None = None
    """Texts that begin a structure."""
    format: dict[str, Any] | None = None
    """A later way to say the same: an object of the type `triggered_tags`."""


class StructuredOutputs(Struct, frozen=True, kw_only=True):
    """vLLM's way to constrain the answer; exactly one of the first six may be given."""

    json: JSONSchema | None = None
    json_object: bool | None = None
    regex: str | None = None
    """The whole answer matches it."""
    choice: list[str] | None = None
    """The answer is one of these texts."""
    grammar: str | None = None
    """Lark's notation, with a rule called `start`."""
    structural_tag: str | dict[str, Any] | None = None
    """Free text with JSON between marks: what `response_format` has, or a string that holds it."""
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool | None = None


_OLDER = Meta(description="An older name of the field in `structured_outputs`.")


class DebugConfig(Struct, frozen=True, kw_only=True):
    """MLC LLM's `debug_config`."""

    ignore_eos: bool | None = None
    special_request: Any = None
    """Refused: the engine's numbers have an endpoint of their own."""


class GenerationFields(SamplingFields, frozen=True, kw_only=True):
    """Fields that both endpoints share. None: not given, the model's default applies."""

    model: str | None = None
    max_tokens: int | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logprobs: bool | int | None = None
    """Chat: whether to report; completions: how many alternatives. Both accept both forms."""
    top_logprobs: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Annotated[JSONSchema | None, _OLDER] = None
    guided_regex: Annotated[str | None, _OLDER] = None
    guided_choice: Annotated[list[str] | None, _OLDER] = None
    guided_grammar: Annotated[str | None, _OLDER] = None
    user: str | None = None
    debug_config: DebugConfig | None = None


class ChatCompletionRequest(GenerationFields, frozen=True, kw_only=True):
    """The body of POST /v1/chat/completions, the arguments of `chat.completions.create`."""

    messages: Annotated[list[ChatMessage], Meta(extra_json_schema={"minItems": 1})]
    max_completion_tokens: int | None = None
    """OpenAI's newer name of `max_tokens`; wins when both are given."""
    tools: list[dict[str, Any]] | None = None
    """Functions the model may call."""
    tool_choice: str | dict[str, Any] | None = None
    """none, auto, required, a function by its name, or allowed_tools."""
    parallel_tool_calls: bool | None = None
    """Whether one answer may hold several calls; default true."""
    reasoning_effort: str | None = None
    """none, minimal, low, medium, high, xhigh or max; what it does is the template's business."""
    thinking_token_budget: int | None = None
    """Most tokens of the model's thoughts; then they are ended."""
    include_reasoning: bool | None = None
    """Whether thoughts are in the answer; default true."""
    documents: list[dict[str, Any]] | None = None
    """Texts that templates for retrieval put into the prompt."""
    add_generation_prompt: bool | None = None
    """Whether the prompt ends with the beginning of the assistant's message; default true."""
    continue_final_message: bool | None = None
    """Whether the answer goes on from the last message, which is the assistant's."""
    chat_template_kwargs: dict[str, Any] | None = None
    """More variables of the model's chat template."""
    chat_template: Any = None
    """Refused: the template comes with the model."""
    modalities: list[str] | None = None
    """Text is the only one."""
    audio: Any = None
    functions: list[dict[str, Any]] | None = None
    """OpenAI's older name of `tools`; refused when there are any."""
    function_call: Any = None
    web_search_options: Any = None


class CompletionRequest(GenerationFields, frozen=True, kw_only=True):
    """The body of POST /v1/completions, the arguments of `completions.create`."""

    prompt: str | list[str | int | list[int]]
    """One text, several texts, one list of token ids or several; never a mixture."""
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None


Request = TypeVar("Request", ChatCompletionRequest, CompletionRequest)

Body = TypeVar("Body")

MAX_VALUES = 1 << 20
"""Reading a body takes the thread of all streams for up to 0.1 us a value; counting takes less."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LIST_COST = 4
"""A list, an object or the name of a field takes as long to make as so many numbers."""

_chat = msgspec.json.Decoder(ChatCompletionRequest)
_completion = msgspec.json.Decoder(CompletionRequest)


def parse_as(body: bytes, kind: type[Body]) -> Body:
    """Read a body of any other endpoint. Raises BadRequest."""
    return _parse(body, msgspec.json.Decoder(kind))


def parse_chat(body: bytes) -> ChatCompletionRequest:
    """Read a body of POST /v1/chat/completions. Raises BadRequest."""
    return _parse(body, _chat)


def parse_completion(body: bytes) -> CompletionRequest:
    """Read a body of POST /v1/completions. Raises BadRequest."""
    return _parse(body, _completion)


def from_arguments(kind: type[Request], arguments: Mapping[str, Any]) -> Request:
    """A request from Python keyword arguments, with a body's errors. Raises BadRequest."""
    try:
        return msgspec.convert(_plain(arguments), kind)
    except msgspec.ValidationError as error:
        raise explain(error) from error
    except RecursionError as error:
        raise BadRequest("The arguments are nested too deeply.") from error


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON says it: keys of `logit_bias` may be strings, messages may be an answer's own."""
    plain = dict(arguments)
    bias = arguments.get("logit_bias")
    if isinstance(bias, Mapping):
        plain["logit_bias"] = {
            int(key) if isinstance(key, str) and key.isdecimal() and len(key) < 20 else key: value
            for key, value in bias.items()
        }
    messages = arguments.get("messages")
    if isinstance(messages, list | tuple):
        plain["messages"] = [
            message.model_dump() if hasattr(message, "model_dump") else message
            for message in messages
        ]
    return plain


def _most_values(body: bytes) -> int:
    """No fewer than the values in the body, whatever stands in its strings."""
    return body.count(b",") + LIST_COST * sum(map(body.count, (b"[", b"{", b":")))


def _parse(body: bytes, decoder: msgspec.json.Decoder[Body]) -> Body:
    if _most_values(body) > MAX_VALUES:
        raise BadRequest("The body holds more values than one request may; send several requests.")
    try:
        body = body.removeprefix(BYTE_ORDER_MARK)
        body.decode()  # also where unknown fields would hide it
        return _decode(body, decoder)
    except msgspec.ValidationError as error:
        raise explain(error) from error
    except msgspec.DecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {error}.") from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not valid UTF-8 at byte {error.start}.") from error
    except RecursionError as error:
        raise BadRequest("The body is nested too deeply.") from error


def _decode(body: bytes, decoder: msgspec.json.Decoder[Body]) -> Body:
    """Fields that are integers may be written as 16.0, as some languages write all numbers."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        if not _WANTED_INTEGER.search(str(error)):
            raise
        fields = msgspec.json.decode(body)
        whole = {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in fields.items()
        }
        return msgspec.convert(whole, decoder.type)


_WANTED_INTEGER = re.compile(r"Expected `[^`]*\bint\b[^`]*`, got `float`")
_MISSING = re.compile(r"Object missing required field `(?P<field>\w+)`")
_EXPECTED = re.compile(r"Expected `(?P<want>[^`]+)`, got `(?P<got>[^`]+)`")
_PATH = re.compile(r" - at (?:`(?P<where>key|value)` in )?`\$?(?P<path>[^`]*)`\Z")
_NAMES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def explain(error: msgspec.ValidationError) -> BadRequest:
    """msgspec's sentence about a Python type, as one about a JSON field."""
    text = str(error)
    located = _PATH.search(text)
    path = located["path"] if located else ""
    param = re.sub(r"\[(\d+|\.\.\.)\]", r".\1", path).replace("....", "").strip(".")
    param = param.removesuffix("...").strip(".")
    if missing := _MISSING.search(text):
        param = f"{param}.{missing['field']}".strip(".")
        return BadRequest(f"`{param}` is required.", param=param)
    subject = f"`{param}`" if param else "The body"
    if located and located["where"] == "key":
        subject = f"Every key of `{param}`"
    if expected := _EXPECTED.search(text):
        got = _NAMES.get(expected["got"], expected["got"])
        sentence = f"{subject} must be {_alternatives(expected['want'])}, not {got}."
    else:
        reason = text.removesuffix(located[0]) if located else text
        sentence = f"{subject} cannot be read: {reason}."
    return BadRequest(sentence, param=param or None)


def _alternatives(want: str) -> str:
    names = [_NAMES.get(name, name) for name in want.split(" | ") if name != "null"]
    return " or ".join(names)
