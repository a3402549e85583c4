"""The values that go into a template and come out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from mlc_llm.errors import BadRequest

Piece = str | int
"""A part of a prompt: text to be tokenized without special tokens added, or one token id."""


class DoesNotFit(BadRequest):
    """A template has no form for these turns; for others that say the same it may have one."""


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
    reasoning: str | None = None
    """What the assistant thought before its content."""


class RenderOptions(Struct, frozen=True, kw_only=True):
    """How a prompt is to end, and what more a template is told."""

    begin_answer: bool = True
    """Whether the prompt ends with the beginning of the assistant's next message."""
    continue_last: bool = False
    """Whether it ends inside the last message, right after its content; wins."""
    variables: Mapping[str, Any] = {}
    tools: Sequence[Mapping[str, Any]] = ()
    """The tools as the request has them: {"type": "function", "function": {"name": ...}}."""
    documents: Sequence[Mapping[str, Any]] = ()


DEFAULT_OPTIONS = RenderOptions()


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

    @property
    def writes_tools(self) -> bool:
        """Whether it has a place for the tools of a request."""
        ...

    @property
    def writes_calls(self) -> bool:
        """Whether it can write calls of tools and their results in the conversation so far."""
        ...

    def render(
        self, turns: Sequence[Turn], options: RenderOptions = DEFAULT_OPTIONS
    ) -> list[Piece]:
        """The prompt; adjacent texts are one piece. Raises BadRequest when the turns do not fit."""
        ...


def cut_after(text: str, content: str) -> str:
    """`text` up to the end of its last occurrence of `content`.

    Templates may strip contents, so blanks around it need not be there. Raises BadRequest where a
    template has changed the content.
    """
    for form in (content, content.lstrip(), content.strip()):
        start = text.rfind(form)
        if start >= 0:
            return text[: start + len(form)]
    reason = "The model's chat template changes the last message, so it cannot be continued."
    raise BadRequest(reason, param="continue_final_message")


def merge(pieces: Sequence[Piece]) -> list[Piece]:
    """Join neighbouring texts, so that they are tokenized as one; drop empty ones."""
    merged: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and merged and isinstance(merged[-1], str):
            merged[-1] += piece
        elif piece != "":
            merged.append(piece)
    return merged
