"""What the recorder keeps and how it is written."""

from __future__ import annotations

import msgspec

from mlc_llm.tracing.chrome import chrome_events, chrome_json
from mlc_llm.tracing.events import Event
from mlc_llm.tracing.recorder import Recorder


def test_only_the_latest_records_are_kept() -> None:
    recorder = Recorder(capacity=3)
    for number in range(5):
        recorder.instant(Event.FINISH, f"r{number}")
    assert [record.request_ids for record in recorder.records()] == [("r2",), ("r3",), ("r4",)]
    recorder.span(Event.DECODE, ["a", "b"], 1.0, 2.0)
    assert [record.request_ids for record in recorder.records()] == [("r4",), ("a", "b")]


def test_events_are_numbered_within_their_request_and_sorted_by_time() -> None:
    recorder = Recorder()
    recorder.span(Event.DECODE, ["a", "b"], 2.0, 3.0)
    recorder.instant(Event.RECEIVE_REQUEST, "a", 1.0)
    recorder.span(Event.DECODE, ["a"], 4.0, 5.5)
    names = [(e.tid, e.name, e.ph, e.ts) for e in chrome_events(recorder.records())]
    assert names == [
        ("a", "receive request (0)", "i", 1_000_000),
        ("a", "decode (0)", "B", 2_000_000),
        ("a", "decode (0)", "E", 3_000_000),
        ("a", "decode (1)", "B", 4_000_000),
        ("a", "decode (1)", "E", 5_500_000),
        ("b", "decode (0)", "B", 2_000_000),
        ("b", "decode (0)", "E", 3_000_000),
    ]


def test_the_file_is_an_array_of_objects() -> None:
    recorder = Recorder()
    recorder.instant(Event.ABORT, "a", 1.5)
    assert msgspec.json.decode(chrome_json(recorder.records())) == [
        {"name": "abort (0)", "ph": "i", "ts": 1500000, "pid": 1, "tid": "a"}
    ]
