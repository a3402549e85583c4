"""Calls told at once or not at all: for answers that are not streamed."""

from __future__ import annotations

from mlc_llm.tools.events import (
    CallArguments,
    CallBegins,
    CallBreaks,
    CallEnds,
    Content,
    Event,
    Reader,
)


class WholeCalls:
    """Withholds what `reader` tells of a call until it ends; one that breaks off is `Content`."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._held: list[Event] = []

    def feed(self, text: str) -> list[Event]:
        """See `Reader`."""
        return self._pass(self._reader.feed(text))

    def finish(self) -> list[Event]:
        """See `Reader`."""
        return self._pass(self._reader.finish())

    def _pass(self, events: list[Event]) -> list[Event]:
        passed: list[Event] = []
        for event in events:
            match event:
                case CallBegins() | CallArguments():
                    self._held.append(event)
                case CallEnds():
                    passed += [*self._held, event]
                    self._held.clear()
                case CallBreaks(text=text):
                    self._held.clear()
                    passed.append(Content(text))
                case _:
                    passed.append(event)
        return passed
