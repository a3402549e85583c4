"""The values that go into a template and come out of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct

Piece = str | int
"""A part of a prompt: text to be tokenized without special tokens added, or one token id."""


class TurnCall(Struct, frozen=True):
    """A tool call in the history."""

    name: str
    arguments: Any
    """The parsed arguments, or the text where it is not JSON."""
    id: str | None = None


class Turn(Struct, frozen=True, kw_only=True):
    """One message of the conversation, its parts joined."""

    role: str
    """system, user, assistant or tool."""
    content: str | None
    name: str | None = None
    tool_calls: tuple[TurnCall, ...] = ()
    tool_call_id: str | None = None


class ChatTemplate(Protocol):
    """One way to write a conversation as a prompt that asks for the assistant's next message."""

    @property
    def stop_strs(self) -> tuple[str, ...]:
        """Strings at which the assistant's message ends."""
        ...

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Tokens at which the assistant's message ends, beside the model's own end tokens."""
        ...

    def render(self, turns: Sequence[Turn]) -> list[Piece]:
        """The prompt; adjacent texts are one piece. Raises BadRequest when the turns do not fit."""
        ...


def merge(pieces: Sequence[Piece]) -> list[Piece]:
    """Join neighbouring texts, so that they are tokenized as one; drop empty ones."""
    merged: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and merged and isinstance(merged[-1], str):
            merged[-1] += piece
        elif piece != "":
            merged.append(piece)
    return merged
