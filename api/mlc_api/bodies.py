"""How much of all request bodies together may be in memory before its request has been prepared.

One body is bounded by the application; this bounds their sum, so that a crowd of large bodies is
refused one by one and the process keeps its size.
"""

from __future__ import annotations

from typing import Any

from litestar.types import ASGIApp, Receive, Scope, Send

from mlc_llm.errors import Overloaded


class BodyBudget:
    """An ASGI layer that counts what requests have sent until they are answered or read on."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, max_body_bytes: int) -> None:
        """`max_body_bytes`: what one body may have; nobody keeps more of it."""
        self._app = app
        self._max_bytes = max_bytes
        self.max_body_bytes = max_body_bytes
        self.held = 0
        """Bytes of bodies that are being read or prepared now."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reading = _Reading(self, receive)
        try:
            await self._app(scope, reading.receive, send)
        finally:
            reading.release()

    def reserve(self, size: int) -> None:
        """Raises Overloaded when this is more than fits."""
        if self.held + size > self._max_bytes:
            raise Overloaded("Too many large requests are being read; try again in a moment.")
        self.held += size


class _Reading:
    """The body of one request."""

    def __init__(self, budget: BodyBudget, receive: Receive) -> None:
        self._budget = budget
        self._receive = receive
        self._held = 0
        self._complete = False

    async def receive(self) -> Any:
        if self._complete:  # whoever asks for more has prepared the request, and let go of its body
            self.release()
            return await self._receive()
        message = await self._receive()
        if message["type"] == "http.request":
            size = min(len(message["body"]), self._budget.max_body_bytes - self._held)
            self._budget.reserve(size)
            self._held += size
            self._complete = not message["more_body"]
        return message

    def release(self) -> None:
        self._budget.held -= self._held
        self._held = 0
