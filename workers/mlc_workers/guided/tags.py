"""Structural tags as a grammar: free text, and what follows a trigger. Pure; knows no library."""

from __future__ import annotations

from collections.abc import Mapping

from mlc_llm.grammar.tags import Tags
from mlc_llm.tools.lark import ANY, literal, pattern


def lark_of(tags: Tags, added_tokens: Mapping[str, int], first: int = 0) -> str:
    """In Lark's notation; @schema_0 ... stand for the schemas of the tags, in order, or with a
    `first` above 0 the ones from there on.

    `added_tokens`: ids of the tokenizer's added tokens by name. Raises ValueError for a trigger
    that has one of them elsewhere than at its beginning: text before it would be ambiguous.
    """
    lines = ["start: (" + " | ".join(f"tag_{i}" for i in range(len(tags.triggers))) + ")* TEXT"]
    plain = []
    for index, trigger in enumerate(tags.triggers):
        token = next((name for name in added_tokens if trigger.startswith(name)), None)
        if token is None and any(name in trigger for name in added_tokens):
            raise ValueError(f"the trigger {trigger!r} has a special token inside")
        if token is None:
            plain.append(pattern(trigger))
            lines.append(f"opened_{index}[lazy]: /{ANY}{pattern(trigger)}/")
        else:
            lines.append(f"opened_{index}: TEXT {literal(trigger, added_tokens)}")
        lines.append(f"tag_{index}: opened_{index} ({_rest(tags, trigger, added_tokens, first)})")
    free = f"/{ANY}/"
    if plain:
        free += f" & ~/{ANY}({'|'.join(plain)}){ANY}/"
    return "\n".join([*lines, f"TEXT: {free}"]) + "\n"


def _rest(tags: Tags, trigger: str, added_tokens: Mapping[str, int], first: int) -> str:
    """What may come after a trigger: the rest of a beginning, JSON, and the end."""
    return " | ".join(
        f"{literal(tag.begin.removeprefix(trigger), added_tokens)} @schema_{index} "
        f"{literal(tag.end, added_tokens)}"
        for index, tag in enumerate(tags.tags, first)
        if tag.begin.startswith(trigger)
    )
