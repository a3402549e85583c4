"""The served model's tokenizer and template, for endpoints that generate nothing."""

from __future__ import annotations

from typing import Protocol
from uuid import uuid4

from mlc_llm.protocol.embeddings import EmbeddingRequest
from mlc_llm.protocol.messages import Ready
from mlc_llm.protocol.requests import parse_as, parse_chat
from mlc_llm.protocol.responses_api import InputTokens, ResponsesRequest
from mlc_llm.protocol.text_tools import (
    DetokenizeRequest,
    DetokenizeResponse,
    ScoreRequest,
    TemplateResponse,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
)
from mlc_llm.serve import text_tools
from mlc_llm.serve.embeddings import Embeddings, prepare_embeddings
from mlc_llm.serve.request.prepare import ServedModel
from mlc_llm.serve.responses.prepare import Asked, prepare_response
from mlc_llm.serve.responses.store import ResponseStore

BYTES_PER_ID = 4
"""Of a token in a prompt on its way to the engine."""


class HasLimits(Protocol):
    """An engine, as far as its limits go."""

    @property
    def ready(self) -> Ready:
        """The limits. Raises `EngineUnavailable` while there are none."""
        ...


class TextTools:
    """Bodies in, responses out. Raises `BadRequest` or `EngineUnavailable`."""

    def __init__(self, model: ServedModel, engine: HasLimits) -> None:
        self._model = model
        self._engine = engine

    async def tokenize(self, body: bytes) -> TokenizeResponse:
        """For /tokenize: a text, or a chat request."""
        ready = self._engine.ready
        request = parse_as(body, TokenizeRequest)
        if request.messages is None:
            return await text_tools.tokenize(request, self._model, ready)
        return await text_tools.tokenize_chat(request, parse_chat(body), self._model, ready)

    async def detokenize(self, body: bytes) -> DetokenizeResponse:
        """For /detokenize."""
        request = parse_as(body, DetokenizeRequest)
        return await text_tools.detokenize(request, self._model, self._engine.ready)

    def tokenizer_info(self) -> TokenizerInfo:
        """For /tokenizer_info."""
        return text_tools.tokenizer_info(self._model, self._engine.ready)

    async def apply_template(self, body: bytes) -> TemplateResponse:
        """For /apply-template."""
        request = parse_chat(body)
        return await text_tools.apply_template(request, self._model, self._engine.ready)

    async def respond(self, body: bytes, store: ResponseStore, response_id: str) -> Asked:
        """For /v1/responses. Raises `ResponseNotFound` too."""
        request = parse_as(body, ResponsesRequest)
        return await prepare_response(request, self._model, self._engine.ready, store, response_id)

    async def input_tokens(self, body: bytes, store: ResponseStore) -> InputTokens:
        """For /v1/responses/input_tokens, of a request that could be made."""
        asked = await self.respond(body, store, "resp_none")
        (submit,) = asked.prepared.submits
        return InputTokens(
            object="response.input_tokens", input_tokens=len(submit.prompt) // BYTES_PER_ID
        )

    async def embeddings(self, body: bytes) -> Embeddings:
        """For /v1/embeddings: what to ask the engine."""
        request = parse_as(body, EmbeddingRequest)
        request_id = f"embd-{uuid4().hex}"
        return await prepare_embeddings(request, self._model, self._engine.ready, request_id)

    async def score(self, body: bytes) -> text_tools.Scoring:
        """For /score: what to ask the engine."""
        request = parse_as(body, ScoreRequest)
        request_id = f"score-{uuid4().hex}"
        return await text_tools.prepare_score(request, self._model, self._engine.ready, request_id)
