"""How a server is told to read its model's answers. Values; the formats are in `mlc_llm.tools`."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

ToolArguments = Literal["string", "object"]
"""How whole answers have the arguments of calls: as JSON text, or as the object itself."""


class Parsers(Struct, frozen=True, kw_only=True):
    """None: find out from the chat template."""

    tool_call: str | None = None
    """How the model writes calls of tools."""
    reasoning: str | None = None
    """How it marks its thoughts; "none": they are not read."""
    tool_arguments: ToolArguments = "string"


DEFAULT_PARSERS = Parsers()
