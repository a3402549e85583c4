"""Keeps the latest events in a ring; the oldest make room, so memory is bounded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Literal, NamedTuple

from mlc_llm.tracing.events import Event

CAPACITY = 1 << 17
"""Events kept by default, about 20 MB when full."""


class Record(NamedTuple):
    """One event; wall clock in seconds, so that records of two processes can be merged."""

    when: float
    event: Event
    phase: Literal["B", "E", "i"]
    """Begin, end or instant."""
    request_id: str


class Recorder:
    """Records events; whoever may run without tracing holds `Recorder | None` and asks first."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._records: deque[Record] = deque(maxlen=capacity)

    def instant(self, event: Event, request_id: str, when: float | None = None) -> None:
        """Something happened, now unless said otherwise."""
        self._records.append(Record(time.time() if when is None else when, event, "i", request_id))

    def span(self, event: Event, request_ids: Iterable[str], start: float, end: float) -> None:
        """Something took time, for each of these requests."""
        append = self._records.append
        for request_id in request_ids:
            append(Record(start, event, "B", request_id))
            append(Record(end, event, "E", request_id))

    def records(self) -> list[Record]:
        """All that is kept, in the order of recording."""
        return list(self._records)

    def clear(self) -> None:
        """Forget everything."""
        self._records.clear()
