"""What a text beside calls and thoughts must match, as a rule of their grammar."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

from mlc_llm.protocol.generation import Grammar
from mlc_llm.tools.lark import pattern

_SLASH = re.compile(r"(\\.)|/", re.DOTALL)


class Content(NamedTuple):
    """The rule `content`, and what it refers to."""

    rule: str
    schemas: tuple[tuple[str, Any], ...] = ()
    """With what to call each in an error; they follow the schemas of the tools."""
    grammar: Grammar | None = None
    """What `@content` stands for: a whole grammar of its own."""


def content_rule(content: Grammar, index: int, free: str = "") -> Content:
    """`index`: how many schemas there are already; `free`: a terminal that an expression's texts
    must match as well."""
    if content.kind == "json_schema":
        schema: Any = msgspec.json.decode(content.text)
        named = (content.param, {} if schema is True else schema)
        return Content(f"content: @schema_{index}", (named,))
    if content.kind == "choice":
        choices = msgspec.json.decode(content.text, type=list[str])
        return Content(f"content: /{'|'.join(map(pattern, choices))}/")
    if content.kind == "regex":
        expression = _SLASH.sub(lambda found: found[1] or r"\/", content.text)
        terminal = f"/{expression}/".replace("\n", r"\n")
        return Content(f"content: CONTENT\nCONTENT: {terminal}{f' & {free}' if free else ''}")
    return Content("content: @content", grammar=content)
