"""Requests and responses of what needs no generation: tokens, templates, likelihoods of texts.

The names are vLLM's; `content` and `with_pieces` are llama.cpp's for the same things.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from mlc_llm.protocol.requests import ChatMessage
from mlc_llm.protocol.responses import Object, UsageInfo


class TokenizeRequest(Struct, frozen=True, kw_only=True):
    """The body of POST /tokenize: a text, or a conversation as a chat request has it."""

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    """Another name of `prompt`; it begins without the model's first token."""
    messages: list[ChatMessage] | None = None
    """With these, every field of a chat request that shapes the prompt is read."""
    add_special_tokens: bool | None = None
    """Whether the model's first token begins the prompt; texts: true, conversations: false."""
    add_special: bool | None = None
    """Another name of `add_special_tokens`."""
    return_token_strs: bool | None = None
    with_pieces: bool | None = None
    """Another name of `return_token_strs`."""


class TokenizeResponse(Object, frozen=True):
    """The tokens of a text."""

    count: int
    max_model_len: int
    """Tokens of the longest sequence, prompt and answer."""
    tokens: list[int]
    token_strs: list[str] | None
    """As the vocabulary writes them."""


class DetokenizeRequest(Struct, frozen=True, kw_only=True):
    """The body of POST /detokenize."""

    tokens: list[int]
    model: str | None = None


class DetokenizeResponse(Object, frozen=True):
    """The text of tokens, under both names that clients read."""

    prompt: str
    content: str


class TokenizerInfo(Object, frozen=True):
    """What evaluation harnesses ask of the tokenizer, by the names of tokenizer_config.json."""

    tokenizer_class: str | None
    model_max_length: int
    """Tokens of the longest sequence, prompt and answer."""
    bos_token: str | None
    """The text of the token that begins prompts."""
    eos_token: str | None
    """The text of the first of the tokens that end answers."""
    pad_token: str | None
    unk_token: str | None
    chat_template: str | None
    """Jinja source."""


class TemplateResponse(Object, frozen=True):
    """What the chat template makes of a conversation."""

    prompt: str


class ScoreRequest(Struct, frozen=True, kw_only=True):
    """The body of POST /score: how likely each `text_2` is as the continuation of its `text_1`."""

    text_1: str | list[str]
    """One beginning for all continuations, or one for each."""
    text_2: str | list[str]
    model: str | None = None
    user: Any = None


class Score(Object, frozen=True):
    """One continuation."""

    index: int
    object: Literal["score"]
    score: float
    """Sum of the natural log-probabilities of its tokens."""
    num_tokens: int
    is_greedy: bool
    """Whether the model at temperature 0 would have written it."""


class ScoreResponse(Object, frozen=True):
    """The continuations in the order in which they were sent."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: UsageInfo


class VersionResponse(Object, frozen=True):
    """GET /version."""

    version: str
