"""A model's thoughts, which come before its answer, told apart from it.

Thoughts are what stands between two markers at the very beginning; some templates write the first
marker into the prompt, so that the text begins inside. Blanks around markers belong to them.
Whatever looks like a marker later on is text. Thoughts are not searched for calls.
"""

from __future__ import annotations

import sys

from msgspec import Struct

from mlc_llm.tools.events import Content, Event, Reader, Thought
from mlc_llm.tools.source import Source, Waits, before_blanks, certain


class ThoughtFormat(Struct, frozen=True):
    """How a family of models marks its thoughts."""

    name: str
    begin: str
    end: str

    def opened_by(self, prompt: str) -> bool:
        """Whether a prompt that ends like this leaves the model inside a thought."""
        return prompt.rstrip().endswith(self.begin)


class PlainReader:
    """Everything is content."""

    def feed(self, text: str) -> list[Event]:
        """See `Reader`."""
        return [Content(text)] if text else []

    def finish(self) -> list[Event]:
        """See `Reader`."""
        return []


class ThoughtReader:
    """Tells the thoughts, and hands what comes after them to another reader."""

    def __init__(self, form: ThoughtFormat, inside: bool, then: Reader) -> None:
        """`inside`: whether the text begins inside a thought."""
        self._form = form
        self._inside = inside
        self._then = then
        self._source = Source(max_taken=sys.maxsize)
        self._events: list[Event] = []
        self._parser = self._read()
        next(self._parser)

    def feed(self, text: str) -> list[Event]:
        """See `Reader`."""
        self._source.add(text)
        return self._advance()

    def finish(self) -> list[Event]:
        """See `Reader`."""
        self._source.ended = True
        return self._advance() + self._then.finish()

    def _advance(self) -> list[Event]:
        next(self._parser, None)
        events = self._events
        self._events = []
        return events

    def _read(self) -> Waits[None]:
        yield
        source = self._source
        blanks = yield from source.blanks()
        began = yield from source.literal(self._form.begin)
        if began or self._inside:
            yield from source.blanks()
            yield from self._thought()
            yield from source.blanks()
        else:
            self._pass_on(blanks)
        source.settle()
        while not source.ended or source.at < len(source.text):
            self._pass_on(source.skip(len(source.text)))
            yield

    def _thought(self) -> Waits[None]:
        """Tell everything up to the end marker, without the blanks before it."""
        source, end = self._source, self._form.end
        while (found := source.text.find(end, source.at)) < 0:
            if source.ended:
                self._think_up_to(len(source.text))
                return
            self._think_up_to(certain(source.text, source.at, [end]))
            yield
        self._think_up_to(before_blanks(source.text, source.at, found))
        source.skip(found + len(end) - source.at)

    def _think_up_to(self, end: int) -> None:
        text = self._source.skip(end - self._source.at)
        if text:
            self._events.append(Thought(text))

    def _pass_on(self, text: str) -> None:
        if text:
            self._events += self._then.feed(text)
