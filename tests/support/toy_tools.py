"""A format of calls and thoughts that is made for tests, and a reader for it.

`{name!arguments}` is a call and `(text)` a thought; all else is content.
"""

from __future__ import annotations

from mlc_llm.tools.events import (
    CallArguments,
    CallBegins,
    CallBreaks,
    CallEnds,
    Content,
    Event,
    Thought,
)


class ToyReader:
    """Tells everything character by character; withholds the names of calls."""

    def __init__(self) -> None:
        self._state = "content"
        self._held = ""

    def feed(self, text: str) -> list[Event]:
        return [event for character in text for event in self._next(character)]

    def finish(self) -> list[Event]:
        if self._state == "name":
            return [Content(self._held)]
        return [CallBreaks(self._held)] if self._state == "arguments" else []

    def _next(self, character: str) -> list[Event]:
        self._held += character
        match self._state, character:
            case "content", "{":
                self._state, self._held = "name", "{"
                return []
            case "content", "(":
                self._state = "thought"
                return []
            case "content", _:
                return [Content(character)]
            case "thought", ")":
                self._state = "content"
                return []
            case "thought", _:
                return [Thought(character)]
            case "name", "!":
                self._state = "arguments"
                return [CallBegins(self._held[1:-1]), CallArguments("{")]
            case "name", _:
                return []
            case _, "}":
                self._state = "content"
                return [CallArguments("}"), CallEnds()]
        return [CallArguments(character)]
