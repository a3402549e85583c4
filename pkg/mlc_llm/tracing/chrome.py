"""Records as Chrome Trace Event JSON: an array of {name, ph, ts, pid, tid}.

`tid` is the request id; the n-th occurrence of an event in one request has the suffix " (n)", from
0, as MLC LLM writes it. `ts` is wall clock in microseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct

from mlc_llm.tracing.recorder import Record


class ChromeEvent(Struct, frozen=True):
    """One object of the array; `ph` is B (begin), E (end) or i (instant)."""

    name: str
    ph: str
    ts: int
    pid: int
    tid: str


def chrome_events(records: Iterable[Record]) -> list[ChromeEvent]:
    """Grouped by request in the order of first sight, by time within each."""
    requests: dict[str, list[Record]] = {}
    for record in records:
        for request_id in record.request_ids:
            requests.setdefault(request_id, []).append(record)
    return [
        event
        for request_id, of_one in requests.items()
        for event in sorted(_events(request_id, of_one), key=lambda event: event.ts)
    ]


def chrome_json(records: Iterable[Record]) -> bytes:
    """The whole file."""
    return msgspec.json.encode(chrome_events(records))


def _events(request_id: str, records: list[Record]) -> Iterator[ChromeEvent]:
    seen: Counter[str] = Counter()
    for record in sorted(records, key=lambda record: record.start):
        name = f"{record.event.value} ({seen[record.event.value]})"
        seen[record.event.value] += 1
        start = int(record.start * 1e6)
        if record.end is None:
            yield ChromeEvent(name, "i", start, 1, request_id)
        else:
            yield ChromeEvent(name, "B", start, 1, request_id)
            yield ChromeEvent(name, "E", int(record.end * 1e6), 1, request_id)
