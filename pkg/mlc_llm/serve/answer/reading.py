"""The text of a choice, read into the parts of a message: content, thoughts, calls of tools.

Stands between the engine's deltas and the response objects. Pure. What a text means is the
`Reader`'s business (`mlc_llm.tools`); here its events get ids and indices, and what only a reader
should see is taken out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from mlc_llm.protocol.messages import Delta
from mlc_llm.serve.answer.markers import Markers
from mlc_llm.serve.parsers import ToolArguments
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
from mlc_llm.tools.whole import WholeCalls


class Text(Struct, frozen=True, tag=True):
    """More of the message's content."""

    text: str


class Reasoning(Struct, frozen=True, tag=True):
    """More of what the model thinks."""

    text: str


class Call(Struct, frozen=True, tag=True):
    """A call of a tool begins."""

    index: int
    id: str
    name: str


class Arguments(Struct, frozen=True, tag=True):
    """More of the arguments of a call, as JSON."""

    index: int
    text: str


Part = Text | Reasoning | Call | Arguments


class Reading(Struct, frozen=True, kw_only=True):
    """How the choices of an answer are read."""

    open: Callable[[], Reader]
    """A reader for one choice."""
    markers: tuple[str, ...] = ()
    """Special tokens that the engine shows for the reader's sake; no user sees them."""
    parallel: bool = True
    """Whether a message may hold several calls; if not, all after the first are dropped."""
    with_reasoning: bool = True
    """Whether thoughts are in the answer."""
    arguments: ToolArguments = "string"
    """With "object" streams have calls as MLC LLM's: all of the model's text as content."""


class ChoiceReader:
    """One choice: deltas in, parts of its message out."""

    def __init__(self, reading: Reading, answer_id: str, choice: int, *, whole: bool) -> None:
        """`whole`: what breaks off is content; a stream has told its beginning already."""
        self._reading = reading
        reader = reading.open()
        self._reader: Reader = WholeCalls(reader) if whole else reader
        self._is_raw = not whole and reading.arguments == "object"
        self._markers = Markers(reading.markers)
        self._seed = f"{answer_id}/{choice}"
        self._thinks = False
        self._is_finished = False
        self._num_calls = 0
        self.num_ended_calls = 0
        self.num_reasoning_tokens = 0

    def feed(self, delta: Delta) -> list[Part]:
        """The parts that the delta makes certain; neighbours of one kind are joined."""
        events = self._reader.feed(delta.text) if delta.text else []
        self.num_reasoning_tokens += self._thought_of(delta, events)
        parts = [part for event in events for part in self._parts(event)]
        if self._is_raw:
            parts = [Text(self._markers.feed(delta.text))] if delta.text else []
        if delta.finish_reason is not None:
            parts += self.finish()
        return joined(parts)

    def _thought_of(self, delta: Delta, events: list[Event]) -> int:
        """Tokens of the delta that are thoughts; by its characters where it has both."""
        if all(type(event) is Thought for event in events):
            return delta.num_tokens if events or self._thinks else 0
        thought = sum(len(event.text) for event in events if type(event) is Thought)
        return round(delta.num_tokens * thought / len(delta.text))

    def finish(self) -> list[Part]:
        """What was held back, when the choice has ended; told once."""
        if self._is_finished:
            return []
        self._is_finished = True
        parts = [part for event in self._reader.finish() for part in self._parts(event)]
        if self._is_raw:
            parts = []
        rest = self._markers.finish()
        return joined([*parts, Text(rest)] if rest else parts)

    def _parts(self, event: Event) -> Iterator[Part]:
        self._thinks = type(event) is Thought
        match event:
            case Content(text=text):
                if not self._is_raw and (text := self._markers.feed(text)):
                    yield Text(text)
            case Thought(text=text):
                if text and self._reading.with_reasoning:
                    yield Reasoning(text)
            case CallBegins(name=name):
                self._num_calls += 1
                if self._is_shown:
                    index = self._num_calls - 1
                    yield Call(index, call_id(self._seed, index), name)
            case CallArguments(text=text):
                if text and self._is_shown:
                    yield Arguments(self._num_calls - 1, text)
            case CallEnds():
                self.num_ended_calls += 1
            case CallBreaks():
                pass  # its beginning has been told, the rest is not
            case _:
                assert_never(event)

    @property
    def has_told_calls(self) -> bool:
        """Whether some of the parts were calls."""
        return self._num_calls > 0 and not self._is_raw

    @property
    def _is_shown(self) -> bool:
        return self._reading.parallel or self._num_calls == 1


class Message:
    """The parts of one message, collected."""

    def __init__(self) -> None:
        self.content = ""
        self.reasoning = ""
        self.calls: list[tuple[Call, str]] = []
        """Each with its arguments."""

    def add(self, part: Part) -> None:
        """Take in the next part."""
        match part:
            case Text(text=text):
                self.content += text
            case Reasoning(text=text):
                self.reasoning += text
            case Call():
                self.calls.append((part, ""))
            case Arguments(text=text):
                call, before = self.calls[-1]
                self.calls[-1] = (call, before + text)
            case _:
                assert_never(part)


def joined(parts: Iterable[Part]) -> list[Part]:
    """The parts with neighbours of one kind as one."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if type(part) is not type(last) or last is None or isinstance(part, Call):
            found.append(part)
        else:
            found[-1] = replace(last, text=last.text + part.text)  # type: ignore[union-attr]
    return found


def call_id(seed: str, index: int) -> str:
    """An id of a call, always the same for the same place in the same answer."""
    return f"call_{hashlib.sha256(f'{seed}/{index}'.encode()).hexdigest()[:24]}"
