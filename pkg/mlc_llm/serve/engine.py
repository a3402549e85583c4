"""The engines a Python program uses: `MLCEngine` waits, `AsyncMLCEngine` is awaited.

Both look like OpenAI's client. Everything they do is `serve.running` and `serve.completions`.
"""

from __future__ import annotations

import asyncio
from functools import cached_property
from types import TracebackType

from mlc_llm.serve.completions import (
    AsyncChat,
    AsyncCompletions,
    Chat,
    Completions,
)
from mlc_llm.serve.engine_base import MLCEngineBase
from mlc_llm.serve.metrics import EngineMetrics


class MLCEngine(MLCEngineBase):
    """Answers requests while the caller waits; several threads may call at the same time.

    with MLCEngine("path/to/model") as engine:
        print(engine.chat.completions.create(messages=[{"role": "user", "content": "Hi"}]))
    """

    @cached_property
    def chat(self) -> Chat:
        """`chat.completions.create(messages=...)`."""
        return Chat(self._engine, self._text)

    @cached_property
    def completions(self) -> Completions:
        """`completions.create(prompt=...)`."""
        return Completions(self._engine, self._text)

    def abort(self, request_id: str) -> None:
        """End the answer of this id: it finishes with the reason "abort" and keeps its text so far.

        Nothing happens when there is none.
        """
        self._engine.run(self._engine.abort(request_id))

    def metrics(self) -> EngineMetrics:
        """The engine's counters now."""
        return EngineMetrics(self._engine.run(self._engine.stats()))

    def reset(self) -> None:
        """Abort all requests and forget the prefix cache."""
        self._engine.run(self._engine.reset())

    def __enter__(self) -> MLCEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.terminate()


class AsyncMLCEngine(MLCEngineBase):
    """Answers requests of a program that runs an event loop, of any number of them.

        async with AsyncMLCEngine("path/to/model") as engine:
            async for chunk in await engine.completions.create(prompt="Once", stream=True): ...

    The constructor waits for the engine process, inside a coroutine as well as outside.
    """

    @cached_property
    def chat(self) -> AsyncChat:
        """`await chat.completions.create(messages=...)`."""
        return AsyncChat(self._engine, self._text)

    @cached_property
    def completions(self) -> AsyncCompletions:
        """`await completions.create(prompt=...)`."""
        return AsyncCompletions(self._engine, self._text)

    async def abort(self, request_id: str) -> None:
        """End the answer of this id: it finishes with the reason "abort" and keeps its text so far.

        Nothing happens when there is none.
        """
        await self._engine.run_async(self._engine.abort(request_id))

    async def metrics(self) -> EngineMetrics:
        """The engine's counters now."""
        return EngineMetrics(await self._engine.run_async(self._engine.stats()))

    async def reset(self) -> None:
        """Abort all requests and forget the prefix cache."""
        await self._engine.run_async(self._engine.reset())

    async def __aenter__(self) -> AsyncMLCEngine:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.terminate)
