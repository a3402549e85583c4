"""Texts that models write when they call tools, cut into pieces, and what readers make of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from mlc_llm.tools.events import (
    CallArguments,
    CallBegins,
    CallBreaks,
    CallEnds,
    Content,
    Event,
    Reader,
    Thought,
)
from mlc_llm.tools.tool import Tool

TOOLS = (
    Tool(
        "get_weather",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "hourly": {"type": "boolean"},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
        "The weather in a city.",
    ),
    Tool("now", {}),
    Tool("math.add", {"type": "object", "properties": {"a": {"type": "number"}}}),
)

KEYS = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
CALLS = st.lists(
    st.tuples(
        st.sampled_from([tool.name for tool in TOOLS]),
        st.dictionaries(KEYS, VALUES, max_size=3),
    ),
    min_size=1,
    max_size=4,
)


def pieces(text: str, cuts: Sequence[int]) -> list[str]:
    """The text cut at these places (modulo its length)."""
    places = sorted({cut % (len(text) + 1) for cut in cuts} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(places)]


def read(reader: Reader, parts: Sequence[str]) -> list[Event]:
    """All events, neighbours of one kind joined."""
    events = [event for part in parts for event in reader.feed(part)] + reader.finish()
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        match last, event:
            case Content(a), Content(b):
                joined[-1] = Content(a + b)
            case Thought(a), Thought(b):
                joined[-1] = Thought(a + b)
            case CallArguments(a), CallArguments(b):
                joined[-1] = CallArguments(a + b)
            case _:
                joined.append(event)
    return joined


def calls_of(events: Sequence[Event]) -> list[tuple[str, Any]]:
    """The calls that ended, as (name, arguments); fails where the order of events is wrong."""
    calls: list[tuple[str, Any]] = []
    name: str | None = None
    arguments = ""
    for event in events:
        match event:
            case CallBegins(name=name):
                arguments = ""
            case CallArguments(text=text):
                assert name is not None
                arguments += text
            case CallEnds():
                assert name is not None
                calls.append((name, json.loads(arguments)))
                name = None
            case CallBreaks():
                assert name is not None
                name = None
            case _:
                assert name is None, "text inside a call"
    assert name is None, "a call neither ended nor broke"
    return calls


def text_of(events: Sequence[Event]) -> str:
    """Everything that is no call, as it was written."""
    return "".join(
        event.text for event in events if isinstance(event, Content | Thought | CallBreaks)
    )
