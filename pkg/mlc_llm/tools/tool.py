"""A tool as the model is offered it. Knows nothing of requests."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Tool(Struct, frozen=True):
    """One function that may be called."""

    name: str
    parameters: dict[str, Any] = {}
    """The JSON schema of its arguments, an object; empty: it takes none."""
    description: str = ""
    strict: bool = False
    """Whether its arguments are to obey the schema also where the model is free to call or not."""
