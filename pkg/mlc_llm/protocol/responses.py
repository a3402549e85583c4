"""What a user gets back: OpenAI's response objects, as values.

The same structs are the Python API's results and, encoded, the bodies of the REST API. A field
without a default is always written, `null` included, because OpenAI's schema requires it; a field
with a default is left out while it has that default. Key order is MLC LLM's.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType


class Object(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How every response becomes plain data, by the names OpenAI's objects use."""

    def model_dump(self) -> dict[str, Any]:
        """The object as nested dicts and lists, with the keys that its JSON has."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    def model_dump_json(self) -> str:
        """The object as JSON."""
        return msgspec.json.encode(self).decode()


# --- usage --------------------------------------------------------------------------------


class PromptTokensDetails(Object, frozen=True):
    """Where the prompt's tokens came from."""

    cached_tokens: int
    """Prompt tokens whose keys and values were found in the prefix cache."""


class CompletionTokensDetails(Object, frozen=True):
    """What the answer's tokens were spent on."""

    reasoning_tokens: int
    accepted_prediction_tokens: Literal[0]
    rejected_prediction_tokens: Literal[0]
    """`prediction` is not used, so none of its tokens is either."""


class UsageInfo(Object, frozen=True):
    """Tokens of one answer: the prompts once each, the completions of all choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None
    extra: dict[str, float] | None = None
    """Times and rates, see `serve.answer`. Always there in Python, in REST for debugging."""


# --- log-probabilities --------------------------------------------------------------------


class TopLogProbs(Object, frozen=True):
    """One of the most likely tokens at a position."""

    token: str
    logprob: float
    bytes: list[int] | None


class LogProbsContent(Object, frozen=True):
    """The token that was generated and the most likely ones beside it."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogProbs]


class LogProbs(Object, frozen=True):
    """Log-probabilities of a chat choice, one entry per token."""

    content: list[LogProbsContent]
    refusal: None


class CompletionLogProbs(Object, frozen=True):
    """Log-probabilities of a completion choice, as parallel lists with one entry per token."""

    text_offset: list[int]
    """Where each token starts, in characters of the choice's text."""
    token_logprobs: list[float | None]
    """null for the first token of a prompt, which follows nothing."""
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class PromptLogprob(Object, frozen=True):
    """A token at one position of the prompt."""

    logprob: float
    rank: int
    """1 for the most likely token."""
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""One entry per token of the prompt, null for the first: tokens by their id."""


# --- chat ---------------------------------------------------------------------------------


class ChatFunctionCall(Object, frozen=True):
    """Which function the model calls, and with what."""

    name: str
    arguments: str | dict[str, Any]
    """JSON, as the model wrote it; the object itself where the server was told so."""


class ChatToolCall(Object, frozen=True):
    """One call of a tool."""

    id: str
    type: Literal["function"]
    function: ChatFunctionCall


class ChatFunctionCallDelta(Object, frozen=True):
    """What a chunk adds to a call."""

    name: str | None = None
    arguments: str | None = None
    """More of the JSON."""


class ChatToolCallDelta(Object, frozen=True):
    """News of one call: first its id and name, then its arguments bit by bit."""

    index: int
    """Which of the message's calls."""
    function: ChatFunctionCallDelta
    id: str | None = None
    type: Literal["function"] | None = None


class ChatCompletionMessage(Object, frozen=True):
    """What the model answered."""

    content: str | None
    """null when the message is only calls of tools."""
    role: Literal["assistant"]
    refusal: None
    tool_calls: list[ChatToolCall] | None = None
    reasoning_content: str | None = None
    """What the model thought before it answered."""
    reasoning: str | None = None
    """The same, by its other name."""


class ChatCompletionResponseChoice(Object, frozen=True):
    """One of the n answers."""

    finish_reason: str
    """stop, length, tool_calls, or abort."""
    index: int
    message: ChatCompletionMessage
    logprobs: LogProbs | None


class ChatCompletionResponse(Object, frozen=True):
    """The answer to a chat request that is not streamed."""

    id: str
    choices: list[ChatCompletionResponseChoice]
    created: int
    """Seconds since 1970."""
    model: str
    system_fingerprint: str
    object: Literal["chat.completion"]
    usage: UsageInfo
    prompt_logprobs: PromptLogprobs | None = None


class ChatCompletionDelta(Object, frozen=True):
    """What one chunk adds to the message. `content` is always text, so loops may add it up."""

    content: str = ""
    """In JSON left out of chunks that tell of calls and thoughts, as with OpenAI."""
    role: Literal["assistant"] | None = None
    """In the first chunk of a choice."""
    tool_calls: list[ChatToolCallDelta] | None = None
    reasoning_content: str | None = None
    """More of what the model thinks."""
    reasoning: str | None = None
    """The same, by its other name."""


class ChatCompletionTextDelta(ChatCompletionDelta, frozen=True):
    """A piece of the text, which may be empty; JSON has it always."""

    content: str  # pyright: ignore[reportGeneralTypeIssues] - not the default any more


class ChatCompletionStreamResponseChoice(Object, frozen=True):
    """News of one choice."""

    finish_reason: str | None
    index: int
    delta: ChatCompletionDelta
    logprobs: LogProbs | None


class ChatCompletionStreamResponse(Object, frozen=True):
    """One chunk of a streamed chat answer; without choices and with `usage` it is the last."""

    id: str
    choices: list[ChatCompletionStreamResponseChoice]
    created: int
    model: str
    system_fingerprint: str
    object: Literal["chat.completion.chunk"]
    usage: UsageInfo | None


# --- completions --------------------------------------------------------------------------


class CompletionResponseChoice(Object, frozen=True):
    """One of the answers; prompt i of several has the choices i * n and following."""

    finish_reason: str
    index: int
    logprobs: CompletionLogProbs | None
    text: str
    prompt_logprobs: PromptLogprobs | None = None


class CompletionResponse(Object, frozen=True):
    """The answer to a completion request that is not streamed."""

    id: str
    choices: list[CompletionResponseChoice]
    created: int
    model: str
    system_fingerprint: str
    object: Literal["text_completion"]
    usage: UsageInfo


class CompletionStreamResponseChoice(Object, frozen=True):
    """News of one choice."""

    finish_reason: str | None
    index: int
    logprobs: CompletionLogProbs | None
    text: str


class CompletionStreamResponse(Object, frozen=True):
    """One chunk of a streamed completion; without choices and with `usage` it is the last."""

    id: str
    choices: list[CompletionStreamResponseChoice]
    created: int
    model: str
    system_fingerprint: str
    object: Literal["text_completion"]
    usage: UsageInfo | None


# --- models -------------------------------------------------------------------------------


class ModelResponse(Object, frozen=True):
    """A model that is served here."""

    id: str
    created: int
    object: Literal["model"]
    owned_by: str
    max_model_len: int | UnsetType = UNSET
    """Tokens of a prompt and its answer together, as vLLM has it; absent until it is known."""


class ModelList(Object, frozen=True):
    """All models that are served here."""

    object: Literal["list"]
    data: list[ModelResponse]
