"""What the engine says about one call of `EngineClient.open`, as the caller wants to read it.

Pure but for the one future that a waiting reader sleeps on. Knows no process and no ring.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from msgspec import Struct

from mlc_llm.errors import MLCError
from mlc_llm.protocol.messages import Delta, Finished, FinishReason

MOST_UNMERGED = 256
"""Deltas that may pile up before they are merged: as objects they take far more than their text."""


class Update(Struct, frozen=True, gc=False):
    """News since the last one: at most one delta per choice when several steps piled up."""

    deltas: list[Delta]
    finished: list[Finished]


class Stream:
    """An async iterator of `Update`s that ends when every request of it has ended. One reader.

    Raises the request's own error (see `errors.WIRE_ERRORS`) or EngineDied, after the news that
    came before it. Close it in a `finally` if it may be left early.
    """

    def __init__(self, request_ids: Iterable[str], give_up: Callable[[set[str]], None]) -> None:
        """`give_up` is told the ids whose rest is not wanted when the stream is closed early."""
        self._open = set(request_ids)
        self._give_up = give_up
        self._deltas: list[Delta] = []
        self._finished: list[Finished] = []
        self._num_frames = 0
        self._num_merged = 0
        """Of the deltas, those that are as few as they can be."""
        self._error: MLCError | None = None
        self._closed = False
        self._reader: asyncio.Future[None] | None = None

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Update:
        while not self._closed:
            if self._deltas or self._finished:
                return self._take()
            if self._error is not None:
                self.close()
                raise self._error
            if not self._open:
                break
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        raise StopAsyncIteration

    def close(self) -> None:
        """Abort what has not ended and drop what was not read. Never waits; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._deltas.clear()
        self._finished.clear()
        rest, self._open = self._open, set()
        if rest:
            self._give_up(rest)
        self._wake()

    def push(self, deltas: list[Delta], finished: list[Finished]) -> None:
        """News of one frame of the engine."""
        self._deltas += deltas
        if len(self._deltas) - self._num_merged > MOST_UNMERGED and self._num_frames:
            self._deltas = merge(self._deltas)
            self._num_merged = len(self._deltas)
        self._finished += finished
        self._open.difference_update([end.request_id for end in finished])
        self._num_frames += 1
        self._wake()

    def fail(self, error: MLCError, request_ids: Iterable[str]) -> None:
        """These requests have ended without an answer; the first error is raised."""
        self._error = self._error or error
        self._open.difference_update(request_ids)
        self._wake()

    def _take(self) -> Update:
        deltas = self._deltas if self._num_frames == 1 else merge(self._deltas)
        update = Update(deltas, self._finished)
        self._deltas, self._finished, self._num_frames, self._num_merged = [], [], 0, 0
        return update

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def merge(deltas: list[Delta]) -> list[Delta]:
    """One delta per choice that says the same as `deltas` in order."""
    choices: dict[tuple[str, int], list[Delta]] = {}
    for delta in deltas:
        choices.setdefault((delta.request_id, delta.index), []).append(delta)
    return [parts[0] if len(parts) == 1 else _joined(parts) for parts in choices.values()]


def _joined(parts: list[Delta]) -> Delta:
    return Delta(
        request_id=parts[0].request_id,
        index=parts[0].index,
        text="".join(part.text for part in parts),
        num_tokens=sum(part.num_tokens for part in parts),
        finish_reason=_last_reason(parts),
        logprobs=tuple(entry for part in parts for entry in part.logprobs),
        prompt=tuple(entry for part in parts for entry in part.prompt),
    )


def _last_reason(parts: list[Delta]) -> FinishReason | None:
    return next((p.finish_reason for p in reversed(parts) if p.finish_reason is not None), None)
