"""What a text beside calls and thoughts must match, as a rule of their grammar."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from mlc_llm.protocol.generation import Grammar
from mlc_llm.tools.lark import pattern

COMBINES = frozenset({"json_schema", "regex", "choice"})
"""Kinds of grammars that can be a part of another one."""
_SLASH = re.compile(r"(\\.)|/", re.DOTALL)


def content_rule(content: Grammar, index: int) -> tuple[str, list[tuple[str, Any]]]:
    """The rule `content`, and the schema that it wants to be number `index` of the grammar's.

    `content` is of a kind in `COMBINES`.
    """
    if content.kind == "json_schema":
        schema: Any = msgspec.json.decode(content.text)
        return f"content: @schema_{index}", [(content.param, {} if schema is True else schema)]
    if content.kind == "choice":
        choices = msgspec.json.decode(content.text, type=list[str])
        return f"content: /{'|'.join(map(pattern, choices))}/", []
    expression = _SLASH.sub(lambda found: found[1] or r"\/", content.text)
    return f"content: /{expression}/".replace("\n", r"\n"), []
