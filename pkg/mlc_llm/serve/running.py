"""A running engine, for callers in any thread and any event loop.

Owns the loop thread in which the engine's client lives. Knows requests that are ready to be sent
and the news they bring; knows nothing of prompts, templates or response objects.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from mlc_llm.errors import DuplicateRequest, EngineUnavailable
from mlc_llm.protocol.messages import Progress, Ready, Stats, Submit
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.serve.answer.delta import Answer
from mlc_llm.serve.answer.fold import Fold
from mlc_llm.serve.answer.news import News, NewsStream
from mlc_llm.serve.client.client import EngineClient
from mlc_llm.serve.loop_thread import LoopElsewhere, LoopStopped, LoopThread

T = TypeVar("T")

TERMINATED = "the engine was terminated"
FORKED = "an engine belongs to the process that made it; make one in this process"


class Client(Protocol):
    """What is used of `serve.client.EngineClient`; belongs to its loop."""

    @property
    def ready(self) -> Ready: ...
    def open(self, submits: Sequence[Submit], /) -> NewsStream: ...
    def abort_now(self, request_id: str, /) -> None: ...
    async def stats(self) -> Stats: ...
    async def trace(self) -> bytes: ...
    async def reset(self) -> None: ...
    async def close(self) -> None: ...


class _Live(NamedTuple):
    """An answer that has not ended."""

    stream: NewsStream
    request_ids: tuple[str, ...]


class Source:
    """The news of one answer, fetched when asked for; meanwhile it merges in the client.

    Closing it and dropping it abort what has not ended.
    """

    def __init__(self, engine: RunningEngine, stream: NewsStream, answer: Answer) -> None:
        self.answer = answer
        self._engine = engine
        self._stream = stream

    def next(self) -> News | None:
        """Wait for news; None at the end. Raises the error that ended the answer."""
        return self._engine.run(self._fetch())

    async def next_async(self) -> News | None:
        """The same, awaited in the caller's loop."""
        return await self._engine.run_async(self._fetch())

    def close(self) -> None:
        """Abort what has not ended; does not wait. Idempotent."""
        self._engine.release(self._stream, self.answer)

    async def _fetch(self) -> News | None:
        try:
            return await self._stream.__anext__()
        except StopAsyncIteration:
            return None

    def __del__(self) -> None:
        self.close()


class RunningEngine:
    """One engine process and everything a Python program asks of it."""

    def __init__(self, thread: LoopThread, client: Client) -> None:
        """Take over a client that was started in `thread`."""
        self._thread = thread
        self._client = client
        self._live: dict[str, _Live] = {}
        # Runs once: at `terminate`, when the last user is dropped, or at the interpreter's exit.
        self._finalizer = weakref.finalize(self, _shut_down, thread, client)

    @classmethod
    def start(
        cls,
        spec: EngineSpec,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        command: Sequence[str] | None = None,
    ) -> RunningEngine:
        """Start an engine process and wait until it takes requests.

        `command` stands in for the engine program, for tests. Raises what the engine says
        (`BadModel`, `BadConfig`, ...) or `EngineDied`.
        """
        thread = LoopThread("mlc-llm-engine-client")
        try:
            client = thread.run(EngineClient.start(spec, on_progress=on_progress, command=command))
        except BaseException:
            thread.stop()
            raise
        return cls(thread, client)

    @property
    def ready(self) -> Ready:
        """The engine's limits."""
        return self._client.ready

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run in the client's loop and wait. Raises `EngineUnavailable` after `terminate`."""
        try:
            return self._thread.run(coroutine)
        except LoopStopped as error:
            raise _unavailable(error) from None

    async def run_async(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The same, awaited in the caller's loop; cancelling the caller cancels the coroutine."""
        try:
            future = self._thread.submit(coroutine)
        except LoopStopped as error:
            raise _unavailable(error) from None
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():
                raise
            raise EngineUnavailable(TERMINATED) from None  # the loop stopped under the coroutine

    def open(self, submits: Sequence[Submit], answer: Answer) -> Source:
        """In the client's loop: send requests. Raises `DuplicateRequest`, `EngineUnavailable`."""
        return Source(self, self._open(submits, answer), answer)

    async def fold(self, submits: Sequence[Submit], answer: Answer) -> Fold:
        """In the client's loop: send requests and take in all their news."""
        stream = self._open(submits, answer)
        fold = Fold(answer)
        try:
            while True:
                news = await stream.__anext__()
                fold.add(news.deltas, news.finished)
        except StopAsyncIteration:
            return fold
        finally:
            self._close(stream, answer)

    async def abort(self, answer_id: str) -> None:
        """In the client's loop: end an answer; what it has so far stays. No id is wrong."""
        if answer_id in self._live:
            for request_id in self._live[answer_id].request_ids:
                self._client.abort_now(request_id)

    async def stats(self) -> Stats:
        """In the client's loop: counters and gauges."""
        return await self._client.stats()

    async def trace(self) -> bytes:
        """In the client's loop: Chrome trace events, as JSON."""
        return await self._client.trace()

    async def reset(self) -> None:
        """In the client's loop: abort everything and forget the prefix cache."""
        await self._client.reset()

    def release(self, stream: NewsStream, answer: Answer) -> None:
        """From any thread: this answer is over or not wanted any more."""
        self._thread.call(self._close, stream, answer)

    def terminate(self) -> None:
        """End the engine process and wait for its end; idempotent."""
        self._finalizer()

    def _open(self, submits: Sequence[Submit], answer: Answer) -> NewsStream:
        if answer.id in self._live:
            raise DuplicateRequest(f"a request with the id {answer.id!r} is running already")
        stream = self._client.open(submits)
        self._live[answer.id] = _Live(stream, answer.request_ids)
        return stream

    def _close(self, stream: NewsStream, answer: Answer) -> None:
        stream.close()
        live = self._live.get(answer.id)
        if live is not None and live.stream is stream:  # the id may have been given again since
            del self._live[answer.id]


def _unavailable(error: LoopStopped) -> EngineUnavailable:
    return EngineUnavailable(FORKED if isinstance(error, LoopElsewhere) else TERMINATED)


def _shut_down(thread: LoopThread, client: Client) -> None:
    """The end of a `RunningEngine`, called when it may not exist any more."""
    if thread.is_elsewhere:  # the engine serves on for the process that made it
        return
    if thread.is_current:
        # Dropped by a callback of its own loop, which cannot wait for itself.
        closing = thread.submit(client.close())
        closing.add_done_callback(lambda _: thread.stop())
        return
    try:
        thread.run(client.close())
    finally:
        thread.stop()
