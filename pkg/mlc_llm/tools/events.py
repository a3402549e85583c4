"""What a model's text turns out to say, piece by piece: plain text, thoughts, calls of tools.

A `Reader` is fed the text of one choice as it is generated and gives events; any chunking of the
text gives the same events once neighbours of one kind are joined.

Calls are told as they are written: `CallBegins` when the name of a known tool and the beginning of
its arguments are there, then the arguments, then `CallEnds`. What breaks off before `CallBegins` is
`Content`, as it was written. What breaks off after it, because the answer was cut or because its
JSON is wrong, is `CallBreaks` instead of `CallEnds`, with all the text of that call: a stream that
has told the beginning tells no more of it (what OpenAI does when an answer is cut), whoever still
can takes the call back and has its text as content. `whole.WholeCalls` does that for answers that
are told at once: there no call is ever half told. Joined, contents, thoughts and the texts of calls
are the text of the model, but for markers of thoughts, and blanks around thoughts and calls.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct


class Content(Struct, frozen=True, tag=True):
    """Text meant for the user."""

    text: str


class Thought(Struct, frozen=True, tag=True):
    """Text of the model's reasoning."""

    text: str


class CallBegins(Struct, frozen=True, tag=True):
    """The next call, by the name of its tool; calls are told one after the other."""

    name: str


class CallArguments(Struct, frozen=True, tag=True):
    """The next fragment of the JSON object of the arguments of the call that began last."""

    text: str


class CallEnds(Struct, frozen=True, tag=True):
    """The arguments of the call that began last are complete: joined, they are one JSON object."""


class CallBreaks(Struct, frozen=True, tag=True):
    """The call that began last is none: its text, markers included, up to where it broke.

    Its `CallBegins` and `CallArguments` are void. What comes next is read as if it had not been.
    """

    text: str


Event = Content | Thought | CallBegins | CallArguments | CallEnds | CallBreaks


class Reader(Protocol):
    """Reads the text of one choice. Not shared between choices."""

    def feed(self, text: str) -> list[Event]:
        """What `text`, the next piece, made certain. Withheld: what may still become a marker."""
        ...

    def finish(self) -> list[Event]:
        """The rest, when the choice has ended. Nothing is fed after it."""
        ...
