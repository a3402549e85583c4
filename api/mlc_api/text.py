"""The text side of this server: bodies in, requests that the engine can take out."""

from __future__ import annotations

from uuid import uuid4

from mlc_api.engine import ServedEngine
from mlc_llm.protocol.requests import parse_chat, parse_completion
from mlc_llm.serve.request.prepare import Prepared, ServedModel, prepare_chat, prepare_completion


class TextSide:
    """Prepares requests by the limits that the engine has at the time."""

    def __init__(self, model: ServedModel, engine: ServedEngine, *, with_extra: bool) -> None:
        """`with_extra`: whether answers carry times and rates in `usage.extra`."""
        self._model = model
        self._engine = engine
        self._with_extra = with_extra

    async def chat(self, body: bytes) -> Prepared:
        """For /v1/chat/completions. Raises `BadRequest` or `EngineUnavailable`."""
        ready = self._engine.ready
        return await prepare_chat(
            parse_chat(body), self._model, ready, _new_id("chatcmpl"), with_extra=self._with_extra
        )

    async def completion(self, body: bytes) -> Prepared:
        """For /v1/completions. Raises `BadRequest` or `EngineUnavailable`."""
        ready = self._engine.ready
        return await prepare_completion(
            parse_completion(body), self._model, ready, _new_id("cmpl"), with_extra=self._with_extra
        )


def _new_id(prefix: str) -> str:
    return f"{prefix}-{uuid4().hex}"
