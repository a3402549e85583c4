"""Literals of Python, read piece by piece and written as JSON. Nothing is evaluated.

Strings, numbers, True, False, None (and JSON's names for them), lists, tuples and dictionaries.
"""

from __future__ import annotations

import json
import math
import re

from mlc_llm.tools.json_scan import MAX_DEPTH, JsonScanner, is_text
from mlc_llm.tools.source import NotACall, Source, Waits

_WORDS = {
    "True": "true",
    "False": "false",
    "None": "null",
    "true": "true",
    "false": "false",
    "null": "null",
}
_WORD = re.compile(r"[A-Za-z]*")
_NUMBER = re.compile(r"[0-9A-Za-z_.+\-]*")
_PLAIN = {quote: re.compile(rf"[^{quote}\\\r\n]*") for quote in "\"'"}
_PLAIN_LINES = {quote: re.compile(rf"[^{quote}\\]*") for quote in "\"'"}
_HEX = re.compile(r"[0-9A-Fa-f]+\Z")
_ESCAPES = {
    "\n": "",
    "\\": "\\",
    "'": "'",
    '"': '"',
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "0": "\0",
}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
MAX_NUMBER = 400
"""Characters of the longest number."""


def value(source: Source, depth: int = 0) -> Waits[str]:
    """Take one literal; its JSON. Raises NotACall for anything else."""
    if depth > MAX_DEPTH:
        raise NotACall
    first = yield from source.char()
    if first in ("'", '"'):
        return json_string((yield from strings(source)))
    if first == "[":
        yield from source.expect("[")
        return "[" + ", ".join((yield from _items(source, "]", depth))[0]) + "]"
    if first == "(":
        yield from source.expect("(")
        items, is_tuple = yield from _items(source, ")", depth)
        return "[" + ", ".join(items) + "]" if is_tuple else items[0]
    if first == "{":
        return (yield from _dictionary(source, depth))
    if first.isalpha():
        word = yield from source.run(_WORD)
        if word not in _WORDS:
            raise NotACall
        return _WORDS[word]
    return _json_number((yield from source.run(_NUMBER)))


def strings(source: Source) -> Waits[str]:
    """Take a string, or several one after the other; what they say."""
    said = ""
    while (yield from source.char()) in ("'", '"'):
        said += yield from _string(source)
        yield from source.blanks()
    return said


def json_string(text: str) -> str:
    """The text as a JSON string; halves of characters stay escaped."""
    return json.dumps(text, ensure_ascii=not is_text(text))


def _items(source: Source, end: str, depth: int) -> Waits[tuple[list[str], bool]]:
    """Values up to `end`, and whether there is a comma or nothing: what makes a tuple."""
    items: list[str] = []
    comma = True
    while True:
        yield from source.blanks()
        if comma and (yield from source.literal(end)):
            return items, True
        if not comma:
            yield from source.expect(end)
            return items, len(items) != 1
        items.append((yield from value(source, depth + 1)))
        yield from source.blanks()
        comma = yield from source.literal(",")


def _dictionary(source: Source, depth: int) -> Waits[str]:
    members: list[str] = []
    yield from source.expect("{")
    yield from source.blanks()
    while not (yield from source.literal("}")):
        key = yield from value(source, depth + 1)
        if not key.startswith('"'):
            raise NotACall
        yield from source.blanks()
        yield from source.expect(":")
        yield from source.blanks()
        members.append(f"{key}: {(yield from value(source, depth + 1))}")
        yield from source.blanks()
        if not (yield from source.literal(",")):
            yield from source.expect("}")
            break
        yield from source.blanks()
    return "{" + ", ".join(members) + "}"


def _string(source: Source) -> Waits[str]:
    quote = yield from source.char()
    end = quote
    plain = _PLAIN[quote]
    if (yield from source.literal(quote * 3)):
        end, plain = quote * 3, _PLAIN_LINES[quote]
    else:
        yield from source.expect(quote)
    said: list[str] = []
    while True:
        said.append((yield from source.run(plain)))
        if (yield from source.literal("\\")):
            said.append((yield from _escape(source)))
        elif (yield from source.literal(end)):
            return "".join(said)
        elif len(end) == 3 and (yield from source.literal(quote)):
            said.append(quote)
        else:
            raise NotACall


def _escape(source: Source) -> Waits[str]:
    """What follows a backslash; one that means nothing stays, as in Python."""
    char = yield from source.char()
    if not char:
        raise NotACall
    source.take(1)
    if char not in _HEX_DIGITS:
        return _ESCAPES.get(char, "\\" + char)
    digits = ""
    while len(digits) < _HEX_DIGITS[char] and (yield from source.char()):
        digits += source.take(1)
    code = int(digits, 16) if _HEX.match(digits) else -1
    if len(digits) < _HEX_DIGITS[char] or not 0 <= code <= 0x10FFFF:
        raise NotACall
    return chr(code)


def _json_number(text: str) -> str:
    scanner = JsonScanner()
    if scanner.scan(text + " ", 0) == len(text) and scanner.done:
        return text
    if len(text) > MAX_NUMBER:
        raise NotACall
    try:
        return str(int(text, 0))
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError as error:
        raise NotACall from error
    if not math.isfinite(number):
        raise NotACall
    return json.dumps(number)
