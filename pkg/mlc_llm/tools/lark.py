"""Writes the pieces of a Lark grammar as `llguidance` reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

_META = re.compile(r"[\\.+*?()|\[\]{}^$#&\-~/]")
ANY = "(?s:.*)"


def literal(text: str, added_tokens: Mapping[str, int], after_token: str = "") -> str:
    """An expression for exactly this text; `after_token` may stand after each added token in it.

    Tokens that were added to the vocabulary (special ones and others) never match text in a
    grammar, and where such a name is due the tokenizer writes that token: it is asked for by id.
    """
    present = sorted((name for name in added_tokens if name and name in text), key=len)
    if not present:
        return json.dumps(text, ensure_ascii=False) if text else ""
    parts = re.split("(" + "|".join(re.escape(name) for name in reversed(present)) + ")", text)
    more = f' "{after_token}"?' if after_token else ""
    return " ".join(
        f"<[{added_tokens[part]}]>{more}"
        if part in added_tokens
        else json.dumps(part, ensure_ascii=False)
        for part in parts
        if part
    )


def pattern(text: str) -> str:
    """A regular expression that matches this text alone, for use between slashes."""
    return _META.sub(r"\\\g<0>", text).replace("\n", r"\n")


def without(markers: Sequence[str], line_starts: str, names: Sequence[str]) -> str:
    """A terminal that matches texts that have none of the markers, which are expressions, and no
    line that begins, after blanks, with a character of the class `line_starts` or with a name and
    a parenthesis."""
    found = [f"{ANY}({'|'.join(markers)}){ANY}"] if markers else []
    first = [f"[{line_starts}]"] if line_starts else []
    first += [rf"({'|'.join(names)})\("] if names else []
    if first:
        found.append(rf"({ANY}\n)?[ \t\r]*({'|'.join(first)}){ANY}")
    return " & ".join([f"/{ANY}/", *(f"~/{one}/" for one in found)])
