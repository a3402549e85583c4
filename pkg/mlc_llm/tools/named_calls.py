"""Calls in which the name of the tool stands before its arguments, with markers around both.

    [TOOL_CALLS]f[ARGS]{...}                  Mistral, newer
    <function=f>{...}</function>              Llama 3.1, as its guide has it
    <｜tool▁call▁begin｜>f<｜tool▁sep｜>{...}    DeepSeek V3.1

DeepSeek V3 writes "function" for f, then f and a block of code with the arguments for {...}.
"""

from __future__ import annotations

import re

from mlc_llm.tools import json_calls
from mlc_llm.tools.call_reader import Reading
from mlc_llm.tools.source import NotACall, Waits

TOOL_CALLS = "[TOOL_CALLS]"
FUNCTION = "<function="
CALLS_BEGIN = "<｜tool▁calls▁begin｜>"
CALL_BEGIN = "<｜tool▁call▁begin｜>"
SEPARATOR = "<｜tool▁sep｜>"
CALL_END = "<｜tool▁call▁end｜>"
CALLS_END = "<｜tool▁calls▁end｜>"
NAME = re.compile(r"[\w.\-]*")


def mistral(reading: Reading) -> Waits[None]:
    """A list of objects, or a name with `[ARGS]`; ids that the model writes say nothing."""
    yield from reading.expect(TOOL_CALLS)
    yield from reading.blanks()
    if (yield from reading.char()) in ("[", "{"):
        yield from json_calls.calls(reading)
        return
    name = yield from reading.run(NAME)
    if (yield from reading.literal("[CALL_ID]")):
        yield from reading.run(NAME)
    yield from reading.literal("[ARGS]")
    yield from _arguments(reading, name)
    reading.end()


def llama_function(reading: Reading) -> Waits[None]:
    """One call between tags of XML's look."""
    yield from reading.expect(FUNCTION)
    name = yield from reading.run(NAME)
    yield from reading.expect(">")
    yield from _arguments(reading, name)
    reading.end()
    yield from reading.closing("</function>")


def deepseek(reading: Reading) -> Waits[None]:
    """Calls from either marker on, in both layouts."""
    yield from reading.literal(CALLS_BEGIN)
    more = True
    while more:
        yield from reading.blanks()
        yield from reading.expect(CALL_BEGIN)
        yield from _deepseek_call(reading)
        reading.end()
        yield from reading.closing(CALL_END)
        yield from reading.blanks()
        more = (yield from reading.char()) == "<" and (yield from reading.comes(CALL_BEGIN))
    yield from reading.closing(CALLS_END)


def _deepseek_call(reading: Reading) -> Waits[None]:
    name = yield from reading.run(NAME)
    yield from reading.expect(SEPARATOR)
    if (yield from reading.char()) == "{":
        yield from _arguments(reading, name)
        return
    name = yield from reading.run(NAME)
    yield from reading.blanks()
    yield from reading.literal("```json")
    yield from _arguments(reading, name)
    yield from reading.blanks()
    yield from reading.literal("```")


def _arguments(reading: Reading, name: str) -> Waits[None]:
    """Tell the call up to the end of its arguments, an object."""
    reading.know(name)
    yield from reading.blanks()
    if (yield from reading.char()) != "{":
        raise NotACall
    reading.begin(name)
    yield from reading.json(reading.arguments)
