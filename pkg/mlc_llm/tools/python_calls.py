"""Calls written as calls in Python, with keywords: f(a=1, b="x").

Bare in a list (Llama), bare alone or in a list, maybe as strings (Gorilla), between the fences of a
code block (Gemma). `f(**{...})` takes a JSON object as it is.
"""

from __future__ import annotations

import re

from mlc_llm.tools.call_reader import CallsParser, Reading
from mlc_llm.tools.named_calls import NAME
from mlc_llm.tools.python_values import json_string, strings, value
from mlc_llm.tools.source import NotACall, Waits

KEYWORD = re.compile(r"\w*")


def bare(reading: Reading) -> Waits[None]:
    """One call, or a list of calls or of strings that are calls."""
    if (yield from reading.literal("[")):
        yield from _listed(reading)
    else:
        yield from call(reading)


def fenced(begin: str, end: str) -> CallsParser:
    """Calls on lines of their own, or a list, from `begin` to `end`."""

    def parse(reading: Reading) -> Waits[None]:
        yield from reading.expect(begin)
        yield from reading.blanks()
        more = True
        while more:
            yield from bare(reading)
            yield from reading.blanks()
            yield from reading.literal(";")
            yield from reading.blanks()
            more = (yield from reading.char()) not in ("", end[:1])
        yield from reading.closing(end)

    return parse


def _listed(reading: Reading) -> Waits[None]:
    more = True
    while more:
        yield from reading.blanks()
        if (yield from reading.char()) in ("'", '"'):
            _quoted(reading, (yield from strings(reading)))
        else:
            yield from call(reading)
        yield from reading.blanks()
        more = yield from reading.literal(",")
        yield from reading.blanks()
        more = more and (yield from reading.char()) != "]"
    yield from reading.closing("]")


def _quoted(reading: Reading, text: str) -> None:
    """A call inside a string."""
    inner = Reading(tuple(reading.tools.values()), max_calls=1)
    inner.add(text)
    inner.ended = True
    for _ in call(inner):
        raise NotACall
    if inner.at < len(inner.text):
        raise NotACall
    reading.retell(inner.events)


def call(reading: Reading) -> Waits[None]:
    """Take one call and tell it, argument by argument. `print` around it says nothing."""
    name = yield from reading.run(NAME)
    printed = name == "print" and name not in reading.tools
    if printed:
        yield from reading.expect("(")
        name = yield from reading.run(NAME)
    reading.know(name)
    yield from reading.expect("(")
    yield from reading.blanks()
    if (yield from reading.literal("**")):
        yield from _unpacked(reading, name)
    else:
        yield from _keywords(reading, name)
    if printed:
        yield from reading.blanks()
        yield from reading.expect(")")
    reading.end()


def _unpacked(reading: Reading, name: str) -> Waits[None]:
    if (yield from reading.char()) != "{":
        raise NotACall
    reading.begin(name)
    yield from reading.json(reading.arguments)
    yield from reading.blanks()
    yield from reading.expect(")")


def _keywords(reading: Reading, name: str) -> Waits[None]:
    keys: set[str] = set()
    while not (yield from reading.literal(")")):
        key = yield from reading.run(KEYWORD)
        yield from reading.blanks()
        yield from reading.expect("=")
        if not key or key in keys:
            raise NotACall
        yield from reading.blanks()
        if not keys:
            reading.begin(name)
        reading.arguments(("{" if not keys else ", ") + json_string(key) + ": ")
        keys.add(key)
        reading.arguments((yield from value(reading)))
        yield from reading.blanks()
        if not (yield from reading.literal(",")):
            yield from reading.expect(")")
            break
        yield from reading.blanks()
    if not keys:
        reading.begin(name)
    reading.arguments("}" if keys else "{}")
