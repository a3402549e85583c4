"""A streamed answer as something to iterate over, in a thread or in an event loop.

Leaving early aborts the request: by `close`, by the end of a `with`, by cancelling the reader, or
by dropping the stream, as a `break` out of `for chunk in engine....create(stream=True)` does.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from types import TracebackType
from typing import Generic

from mlc_llm.serve.answer.chunks import Chunks, ChunkT
from mlc_llm.serve.answer.news import News
from mlc_llm.serve.running import Source


class _Pending(Generic[ChunkT]):
    """Chunks that were made and not read yet."""

    def __init__(self, source: Source, chunks: Chunks[ChunkT]) -> None:
        self._source = source
        self._chunks: Chunks[ChunkT] = chunks
        self._pending: deque[ChunkT] = deque()
        self._over = False

    def _next(self) -> ChunkT | None:
        """The oldest chunk; None when there is none. `close` may come at any moment."""
        try:
            return self._pending.popleft()
        except IndexError:
            return None

    def _take_in(self, news: News | None) -> None:
        if news is None:
            self._give_up()
        else:
            self._pending.extend(self._chunks.add(news.deltas, news.finished))

    def _give_up(self) -> None:
        self._over = True
        self._pending.clear()
        self._source.close()


class AnswerStream(_Pending[ChunkT]):
    """Iterator of chunks. Raises the error that ended the answer.

    Threads may share it: each chunk goes to one of them. Any thread may close it.
    """

    def __init__(self, source: Source, chunks: Chunks[ChunkT]) -> None:
        super().__init__(source, chunks)  # type: ignore[arg-type]  # mypy tries each ChunkT alone
        self._reading = threading.Lock()

    def __iter__(self) -> AnswerStream[ChunkT]:
        return self

    def __next__(self) -> ChunkT:
        with self._reading:
            while not self._pending and not self._over:
                try:
                    self._take_in(self._source.next())
                except BaseException:
                    self._give_up()
                    raise
            chunk = self._next()
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Abort what has not ended, drop what was not read; idempotent."""
        self._give_up()

    def __enter__(self) -> AnswerStream[ChunkT]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncAnswerStream(_Pending[ChunkT]):
    """Asynchronous iterator of chunks. Raises the error that ended the answer.

    The tasks of one event loop may share it: each chunk goes to one of them.
    """

    def __init__(self, source: Source, chunks: Chunks[ChunkT]) -> None:
        super().__init__(source, chunks)  # type: ignore[arg-type]  # mypy tries each ChunkT alone
        self._reading = asyncio.Lock()

    def __aiter__(self) -> AsyncAnswerStream[ChunkT]:
        return self

    async def __anext__(self) -> ChunkT:
        async with self._reading:
            while not self._pending and not self._over:
                try:
                    self._take_in(await self._source.next_async())
                except BaseException:
                    self._give_up()
                    raise
            chunk = self._next()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Abort what has not ended, drop what was not read; idempotent, never waits."""
        self._give_up()

    async def __aenter__(self) -> AsyncAnswerStream[ChunkT]:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
