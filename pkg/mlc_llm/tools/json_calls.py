"""Calls written as JSON objects that hold the name of the tool and its arguments.

    {"name": "f", "arguments": {...}}

Hermes and Qwen put each between tags, Llama 3.x writes them bare with a `;` between, Mistral and
Phi-4-mini write a list of them after a marker.
"""

from __future__ import annotations

import json

from mlc_llm.tools.call_reader import CallsParser, Reading
from mlc_llm.tools.json_scan import is_json_object, is_text
from mlc_llm.tools.source import NotACall, Waits

NAMES = frozenset({"name", "function"})
ARGUMENTS = frozenset({"arguments", "parameters"})
BESIDE = frozenset({"id", "type", "call_id", "index"})
"""Keys that models write as well and that say nothing; any other key is not a call's."""


def tagged(begin: str, end: str) -> CallsParser:
    """One object, or a list, or objects with `;` or nothing between, from `begin` to `end`.

    An `end` that is missing is no harm: a call is whole with its last brace.
    """

    def parse(reading: Reading) -> Waits[None]:
        yield from reading.expect(begin)
        yield from calls(reading)
        if end:
            yield from reading.closing(end)

    return parse


def bare(reading: Reading) -> Waits[None]:
    """Objects, with `;` between."""
    yield from _objects(reading)


def calls(reading: Reading) -> Waits[None]:
    """One object, a list of them, or several with `;` or nothing between."""
    yield from reading.blanks()
    if (yield from reading.literal("[")):
        yield from _listed(reading)
    else:
        yield from _objects(reading)


def _listed(reading: Reading) -> Waits[None]:
    more = True
    while more:
        yield from reading.blanks()
        yield from call_object(reading)
        yield from reading.blanks()
        more = yield from reading.literal(",")
    yield from reading.literal("]")


def _objects(reading: Reading) -> Waits[None]:
    more = True
    while more:
        yield from call_object(reading)
        yield from reading.blanks()
        if (yield from reading.literal(";")):
            yield from reading.blanks()
        more = (yield from reading.char()) == "{"


def call_object(reading: Reading) -> Waits[None]:
    """Take one object and tell it. The keys may come in any order."""
    call = _Call(reading)
    yield from reading.expect("{")
    more = True
    while more:
        yield from reading.blanks()
        key = yield from _string(reading)
        yield from reading.blanks()
        yield from reading.expect(":")
        yield from reading.blanks()
        yield from call.member(key)
        yield from reading.blanks()
        more = yield from reading.literal(",")
    yield from reading.expect("}")
    call.close()


class _Call:
    """A call of which the name and the arguments come one after the other."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._name: str | None = None
        self._arguments: str | None = None

    def member(self, key: str) -> Waits[None]:
        """Take the value of a key, and tell what is certain with it."""
        reading = self._reading
        if key in NAMES and self._name is None:
            self._name = yield from _string(reading)
            reading.know(self._name)
        elif key in ARGUMENTS and self._arguments is None:
            yield from self._take_arguments()
        elif key in BESIDE:
            yield from reading.json()
        else:
            raise NotACall

    def close(self) -> None:
        """The object has ended."""
        if self._name is None:
            raise NotACall
        if not self._reading.in_call:
            self._reading.begin(self._name)
            self._reading.arguments(self._arguments or "{}")
        self._reading.end()

    def _take_arguments(self) -> Waits[None]:
        """An object; some models write it into a string, or null where there are none."""
        reading = self._reading
        first = yield from reading.char()
        if first == '"':
            self._arguments = yield from _string(reading)
            if not is_json_object(self._arguments) or not is_text(self._arguments):
                raise NotACall
        elif first == "n":
            yield from reading.expect("null")
            self._arguments = "{}"
        elif first == "{" and self._name is not None:
            reading.begin(self._name)
            self._arguments = yield from reading.json(reading.arguments)
        else:
            self._arguments = yield from reading.json_object()


def _string(reading: Reading) -> Waits[str]:
    """Take a JSON string; what it says."""
    if (yield from reading.char()) != '"':
        raise NotACall
    text: str = json.loads((yield from reading.json()))
    return text
