"""What every reader of an answer sees of the engine, in the web process and in a Python program.

`serve.stream` is the real one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Protocol

from mlc_llm.protocol.messages import Delta, Finished


class News(Protocol):
    """What one step, or several that were merged, added to a stream."""

    @property
    def deltas(self) -> Sequence[Delta]: ...
    @property
    def finished(self) -> Sequence[Finished]: ...


class NewsStream(Protocol):
    """News of requests that were opened together, until all of them have finished.

    Belongs to the client's loop. Raises the `MLCError` that ended one of them. News merge while
    nobody asks for them.
    """

    def __aiter__(self) -> AsyncIterator[News]: ...
    def __anext__(self) -> Awaitable[News]: ...
    def close(self) -> None:
        """Give up what has not finished: abort at once, without waiting. Idempotent."""
        ...
