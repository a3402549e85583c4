"""One conversation in a terminal: lines in, text out. Knows no engine but by what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from mlc_llm.errors import MLCError

HELP = """\
/help               this list
/set k=v;k=v        temperature, top_p, frequency_penalty, presence_penalty, max_tokens, seed, stop
/stats              how fast the last answer was
/metrics            the engine's counters
/reset              forget the conversation
/exit               end (or Ctrl-D); Ctrl-C stops an answer
"""
COMMANDS = ("/help", "/set", "/stats", "/metrics", "/reset", "/exit")


class Piece(NamedTuple):
    """A part of an answer; the last one has how it ended and what it took."""

    text: str
    finish_reason: str | None = None
    extra: Mapping[str, Any] | None = None


Answer = Callable[[list[dict[str, str]], Mapping[str, Any]], Iterator[Piece]]
"""The pieces of the next message, for a conversation and settings."""


def _texts(value: str) -> list[str]:
    return [part for part in value.split(",") if part]


_SETTINGS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "temperature": ("a number", float),
    "top_p": ("a number", float),
    "frequency_penalty": ("a number", float),
    "presence_penalty": ("a number", float),
    "max_tokens": ("a whole number", int),
    "seed": ("a whole number", int),
    "stop": ("texts with commas between them", _texts),
}


class Session:
    """The conversation so far and how to go on."""

    def __init__(
        self, answer: Answer, metrics: Callable[[], str], write: Callable[[str], object]
    ) -> None:
        self._answer = answer
        self._metrics = metrics
        self._write = write
        self._messages: list[dict[str, str]] = []
        self._settings: dict[str, Any] = {}
        self._extra: Mapping[str, Any] = {}

    def line(self, line: str) -> bool:
        """What the user typed; False ends the session. Commands may be abbreviated."""
        word, _, rest = line.strip().partition(" ")
        if not word:
            return True
        if not word.startswith("/"):
            self._say(line.strip())
            return True
        command = next((name for name in COMMANDS if name.startswith(word)), None)
        if command == "/set":
            self._set(rest)
        elif command == "/stats":
            self._write(_speed(self._extra) + "\n")
        elif command == "/metrics":
            self._write(self._metrics())
        elif command == "/reset":
            self._messages.clear()
        else:
            self._write(HELP)
        return command != "/exit" if command else True

    def _say(self, text: str) -> None:
        """Show the answer as it comes. A turn in which nothing was said is forgotten."""
        self._messages.append({"role": "user", "content": text})
        said = ""
        last = Piece("")
        try:
            for last in self._answer(self._messages, self._settings):
                said += last.text
                self._write(last.text)
        except MLCError as error:
            self._write(f"error: {error}; /reset forgets the conversation\n")
        except KeyboardInterrupt:
            self._write(" [stopped]")
        self._extra = last.extra or self._extra
        if not said:
            self._messages.pop()
            return
        self._messages.append({"role": "assistant", "content": said})
        self._write("\n")
        if last.finish_reason == "length":
            self._write("[cut off: `/set max_tokens=N` allows more, /reset makes room]\n")

    def _set(self, text: str) -> None:
        for part in filter(None, (part.strip() for part in text.split(";"))):
            name, _, value = (piece.strip() for piece in part.partition("="))
            if name not in _SETTINGS:
                self._write(f"there is no setting {name!r}; there are {', '.join(_SETTINGS)}\n")
                continue
            kind, read = _SETTINGS[name]
            try:
                self._settings[name] = read(value)
            except ValueError:
                self._write(f"{name} must be {kind}, not {value!r}\n")


def _speed(extra: Mapping[str, Any]) -> str:
    def rate(name: str) -> str:
        value = extra.get(f"{name}_tokens_per_s")
        return "N/A" if not value else f"{value:.1f} tok/s"

    return f"prefill: {rate('prefill')}, decode: {rate('decode')}"
