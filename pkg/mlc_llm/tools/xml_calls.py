"""Calls written as tags, as Qwen3-Coder writes them.

    <tool_call>
    <function=f>
    <parameter=city>
    Rome
    </parameter>
    </function>
    </tool_call>

A value is text as it stands; the schema of the tool says whether that is a string or JSON.
"""

from __future__ import annotations

import json
import re
from typing import Any

from mlc_llm.tools import json_calls
from mlc_llm.tools.call_reader import Reading
from mlc_llm.tools.json_scan import is_json
from mlc_llm.tools.named_calls import FUNCTION, NAME
from mlc_llm.tools.python_values import json_string
from mlc_llm.tools.source import NotACall, Waits

TOOL_CALL = "<tool_call>"
END_TOOL_CALL = "</tool_call>"
PARAMETER = "<parameter="
END_PARAMETER = "</parameter>"
END_FUNCTION = "</function>"
_KEY = re.compile(r"[^<>\s]*")
_PYTHON = {"True": "true", "False": "false", "None": "null"}
_VALUE = re.compile(r"[^<]*")


def tagged(reading: Reading) -> Waits[None]:
    """Functions inside the tag of calls; JSON inside it is read as well."""
    yield from reading.expect(TOOL_CALL)
    yield from reading.blanks()
    if (yield from reading.char()) in ("[", "{"):
        yield from json_calls.calls(reading)
        yield from reading.closing(END_TOOL_CALL)
    else:
        yield from untagged(reading)


def untagged(reading: Reading) -> Waits[None]:
    """The same where the model left out the first tag."""
    more = True
    while more:
        yield from _function(reading)
        yield from reading.blanks()
        more = yield from reading.comes(FUNCTION)
    yield from reading.closing(END_TOOL_CALL)


def _function(reading: Reading) -> Waits[None]:
    """Take one function and tell its call, parameter by parameter."""
    yield from reading.expect(FUNCTION)
    name = yield from reading.run(NAME)
    yield from reading.expect(">")
    reading.know(name)
    yield from reading.blanks()
    keys: set[str] = set()
    while (yield from reading.literal(PARAMETER)):
        key = yield from reading.run(_KEY)
        yield from reading.expect(">")
        if not key or key in keys:
            raise NotACall
        if not keys:
            reading.begin(name)
        reading.arguments(("{" if not keys else ", ") + json_string(key) + ": ")
        keys.add(key)
        text = yield from _value(reading)
        reading.arguments(_as_json(text, _types(reading.tools[name].parameters, key)))
        yield from reading.blanks()
    yield from reading.expect(END_FUNCTION)
    if not keys:
        reading.begin(name)
    reading.arguments("}" if keys else "{}")
    reading.end()


def _value(reading: Reading) -> Waits[str]:
    """Take the text up to the end of the parameter; one line end on each side is not its own."""
    parts: list[str] = []
    while True:
        parts.append((yield from reading.run(_VALUE)))
        if (yield from reading.literal(END_PARAMETER)):
            return "".join(parts).removeprefix("\n").removesuffix("\n")
        yield from reading.expect("<")
        parts.append("<")


def _types(schema: dict[str, Any], key: str) -> set[str]:
    """The types that the schema gives a parameter; none: it does not say."""
    properties = schema.get("properties")
    found = properties.get(key) if isinstance(properties, dict) else None
    options = [found]
    if isinstance(found, dict):
        options += [*found.get("anyOf", ()), *found.get("oneOf", ())]
    types: set[str] = set()
    for option in options:
        given = option.get("type") if isinstance(option, dict) else None
        types |= set(given) if isinstance(given, list) else {given} if given else set()
    return types


def _as_json(text: str, types: set[str]) -> str:
    """JSON where the parameter is no string and the text is JSON, else a string."""
    if "string" in types and not (text == "null" and "null" in types):
        return json_string(text)
    text = text.strip()
    text = _PYTHON.get(text, text)
    if is_json(text) and (types or not text.startswith('"')):
        return text
    return json.dumps(text, ensure_ascii=False)
