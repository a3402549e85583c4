"""Writes the rules of a GBNF grammar in Lark's notation, as `llguidance` reads it. Pure.

Lark knows rules and terminals. A terminal is a regular expression and matches exactly what it
says, but in a rule each takes the longest text that it can, at the cost of the next. So a grammar
in which no rule leads to itself becomes terminals, of which the answer is one, and any other
becomes rules whose terminals are single characters.
"""

from __future__ import annotations

import json

from mlc_llm.grammar.gbnf import (
    Node,
    OneOf,
    Ref,
    Repeat,
    Rules,
    Set,
    Text,
    following,
    read_gbnf,
    references,
)


def lark_of_gbnf(text: str) -> str:
    """Raises ValueError saying what is wrong with the grammar."""
    rules = read_gbnf(text)
    writer = _Writer(rules, are_terminals=_is_regular(rules))
    return "\n".join(["start: " + writer.names["root"], *writer.lines()]) + "\n"


class _Writer:
    def __init__(self, rules: Rules, *, are_terminals: bool) -> None:
        self._rules = rules
        self._are_terminals = are_terminals
        case = "T" if are_terminals else "r"  # an upper case is what makes a terminal
        self.names = {name: f"{case}{index}" for index, name in enumerate(rules)}

    def lines(self) -> list[str]:
        """One for each rule."""
        return [f"{self.names[name]}: {self._write(rule)}" for name, rule in self._rules.items()]

    def _write(self, node: Node) -> str:
        match node:
            case Text(text):
                return self._text(text)
            case Set():
                return f"/{_set(node)}/"
            case Ref(name):
                return self.names[name]
            case Repeat(item, least, most):
                return f"({self._write(item)}){_times(least, most)}"
            case OneOf(options):
                return " | ".join(map(self._sequence, options))

    def _sequence(self, items: tuple[Node, ...]) -> str:
        written = ((item, self._write(item)) for item in items)
        return (
            " ".join(f"({text})" if isinstance(item, OneOf) else text for item, text in written)
            or '""'
        )

    def _text(self, text: str) -> str:
        parts = [text] if self._are_terminals or not text else text
        return " ".join(json.dumps(part, ensure_ascii=False) for part in parts)


def _is_regular(rules: Rules) -> bool:
    """Whether no rule leads to itself."""
    named = ((name, references(rule)) for name, rule in rules.items())
    return len(following(named)) == len(rules)


def _times(least: int, most: int | None) -> str:
    if most is None and least < 2:
        return "*" if least == 0 else "+"
    return f"{{{least},{'' if most is None else most}}}"


def _set(node: Set) -> str:
    if not node.ranges:
        return "(?s:.)"
    inside = "".join(
        _code(first) if first == last else f"{_code(first)}-{_code(last)}"
        for first, last in node.ranges
    )
    return f"[{'^' if node.is_negated else ''}{inside}]"


def _code(code: int) -> str:
    character = chr(code)
    return character if character.isascii() and character.isalnum() else f"\\x{{{code:x}}}"
