"""What all handlers of one server share, and what they need of the engine and of the text side.

The engine is described by what is used of it (`mlc_llm.serve.client.client` is the real one), so
that the web process can be run and measured without one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from mlc_api.measures import Measures
from mlc_api.settings import WebSettings
from mlc_api.text_tools import TextTools
from mlc_llm.protocol.messages import Ready, Stats, Submit
from mlc_llm.serve.answer.delta import Answer
from mlc_llm.serve.answer.news import NewsStream


class Engine(Protocol):
    """An engine as the web process sees it."""

    @property
    def problem(self) -> str | None:
        """Why the engine takes no requests now; None when it does."""
        ...

    @property
    def ready(self) -> Ready:
        """Its limits. Raises `EngineUnavailable` while there are none."""
        ...

    def open(self, submits: Sequence[Submit]) -> NewsStream:
        """Submits these requests. Raises `EngineUnavailable` or `Overloaded`."""
        ...

    async def stats(self) -> Stats:
        """The engine's counters. Raises `EngineUnavailable`."""
        ...

    async def trace(self) -> bytes:
        """Chrome trace events, as JSON. Raises `EngineUnavailable`."""
        ...

    async def reset(self) -> None:
        """Aborts all requests and drops all caches. Raises `EngineUnavailable`."""
        ...


class Prepared(Protocol):
    """A request that has passed every check and may go to the engine."""

    @property
    def submits(self) -> Sequence[Submit]: ...
    @property
    def answer(self) -> Answer: ...
    @property
    def stream(self) -> bool: ...


class Preparer(Protocol):
    """From the body of a request to what the engine is asked. Raises `BadRequest`."""

    async def chat(self, body: bytes) -> Prepared: ...
    async def completion(self, body: bytes) -> Prepared: ...


class Served:
    """One served model: its names, its engine, its text side, its metrics."""

    def __init__(
        self,
        settings: WebSettings,
        engine: Engine,
        preparer: Preparer,
        tools: TextTools | None = None,
    ) -> None:
        """Without `tools` there are no routes for them."""
        self.settings = settings
        self.tools = tools
        self.engine = engine
        self.preparer = preparer
        self.measures = Measures(settings.model_id)
        self.created = int(time.time())
