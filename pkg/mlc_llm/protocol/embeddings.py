"""POST /v1/embeddings: OpenAI's request and response, with a few of vLLM's fields."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from mlc_llm.protocol.responses import Object


class EmbeddingRequest(Struct, frozen=True, kw_only=True):
    """The body of POST /v1/embeddings."""

    input: str | list[str | int | list[int]]
    """One text, several texts, one list of token ids or several; never a mixture."""
    model: str | None = None
    encoding_format: str | None = None
    """"float", or "base64" for little-endian float32."""
    dimensions: int | None = None
    """Keep only so many leading numbers of each vector."""
    user: Any = None
    pooling: str | None = None
    """"last": the last token's hidden state, as for models trained to embed with it; "cls": the
    first token's; "mean": the mean over all tokens. Unset: as the model folder says in
    1_Pooling/config.json, else "mean" for encoders and "last" for other models."""
    normalize: bool | None = None
    """False: leave the vectors as long as they are; else their length is 1."""
    add_special_tokens: bool | None = None
    """False: texts are tokenized without the tokens that the tokenizer puts around them."""
    truncate_prompt_tokens: int | None = None
    """Keep only the last so many tokens of each input; -1: as many as fit."""


class Embedding(Object, frozen=True):
    """The vector of one input."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Object, frozen=True):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(Object, frozen=True):
    """The vectors in the order of the inputs."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
