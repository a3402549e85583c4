"""What a model's text turns out to say, piece by piece: plain text, thoughts, calls of tools.

A `Reader` is fed the text of one choice as it is generated and gives events; any chunking of the
text gives the same events once neighbours of one kind are joined. What does not parse, or is cut
off, is given as `Content`: nothing of the text is ever lost and no call is ever half told.
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


Event = Content | Thought | CallBegins | CallArguments | CallEnds


class Reader(Protocol):
    """Reads the text of one choice. Not shared between choices."""

    def feed(self, text: str) -> list[Event]:
        """What `text`, the next piece, made certain. Withheld: what may still become a marker."""
        ...

    def finish(self) -> list[Event]:
        """The rest, when the choice has ended. Nothing is fed after it."""
        ...
