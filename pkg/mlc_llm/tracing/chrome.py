"""Records as Chrome Trace Event JSON: an array of {name, ph, ts, pid, tid}.

`tid` is the request id; the n-th occurrence of an event in one request has the suffix " (n)", from
0, as MLC LLM writes it. `ts` is wall clock in microseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from mlc_llm.tracing.recorder import Record


class ChromeEvent(Struct, frozen=True):
    """One object of the array."""

    name: str
    ph: str
    ts: int
    pid: int
    tid: str


def chrome_events(records: Iterable[Record]) -> list[ChromeEvent]:
    """Grouped by request in the order of first sight, by time within each.

    The end of a duration whose begin is no longer kept is left out.
    """
    requests: dict[str, list[Record]] = {}
    for record in records:
        requests.setdefault(record.request_id, []).append(record)
    return [event for of_one in requests.values() for event in _numbered(of_one)]


def chrome_json(records: Iterable[Record]) -> bytes:
    """The whole file."""
    return msgspec.json.encode(chrome_events(records))


def _numbered(records: list[Record]) -> list[ChromeEvent]:
    seen: Counter[tuple[str, str]] = Counter()
    events = []
    for record in sorted(records, key=lambda record: record.when):
        name = record.event.value
        number = seen[name, record.phase]
        if record.phase == "E" and number >= seen[name, "B"]:
            continue
        seen[name, record.phase] += 1
        events.append(
            ChromeEvent(
                f"{name} ({number})", record.phase, int(record.when * 1e6), 1, record.request_id
            )
        )
    return events
