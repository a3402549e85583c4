"""Keeps the latest events in a ring; the oldest make room, so memory is bounded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from msgspec import Struct

from mlc_llm.tracing.events import Event

CAPACITY = 1 << 18
"""Events kept by default, one per request and event: some 10 MB when full."""


class Record(Struct, frozen=True, gc=False):
    """The same event of several requests; wall clock in seconds, so that records of two processes
    can be merged.
    """

    start: float
    end: float | None
    """None: an instant."""
    event: Event
    request_ids: tuple[str, ...]


class Recorder:
    """Records events; whoever may run without tracing holds `Recorder | None` and asks first."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._records: deque[Record] = deque()
        self._size = 0

    def instant(self, event: Event, request_id: str, when: float | None = None) -> None:
        """Something happened, now unless said otherwise."""
        self._add(Record(time.time() if when is None else when, None, event, (request_id,)))

    def span(self, event: Event, request_ids: Iterable[str], start: float, end: float) -> None:
        """Something took time, for each of these requests."""
        self._add(Record(start, end, event, tuple(request_ids)))

    def records(self) -> list[Record]:
        """All that is kept, in the order of recording."""
        return list(self._records)

    def clear(self) -> None:
        """Forget everything."""
        self._records.clear()
        self._size = 0

    def _add(self, record: Record) -> None:
        self._records.append(record)
        self._size += len(record.request_ids)
        while self._size > self._capacity:
            self._size -= len(self._records.popleft().request_ids)
