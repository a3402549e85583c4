"""How large and how deep a grammar may be.

What is let through here is compiled in bounded time and on a bounded stack: the numbers were chosen
so that the worst grammar of each kind takes seconds, not minutes. Whether it is well-formed and
supported is the compiler's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import msgspec

from mlc_llm.errors import BadRequest
from mlc_llm.grammar.tags import Tags, check_tags
from mlc_llm.protocol.generation import Grammar

MAX_SCHEMA_BYTES = 128 * 1024
MAX_SCHEMA_DEPTH = 64
MAX_SCHEMA_STRING = 16 * 1024
MAX_REGEX_BYTES = 4096
MAX_LARK_BYTES = 8 * 1024
MAX_CHOICES = 10_000
MAX_CHOICE_BYTES = 128 * 1024
MAX_TOOLS_BYTES = 256 * 1024
"""A grammar of calls of tools, with all their schemas."""
MAX_DIVISORS = 65_536
"""What all `multipleOf` of a schema may add up to, as whole numbers: each is a table that long."""


def check_grammar(grammar: Grammar) -> None:
    """Raises BadRequest naming `grammar.param`."""
    try:
        _CHECKS[grammar.kind](grammar.text, grammar.param)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"`{grammar.param}` is not JSON: {error}.", param=grammar.param) from error


def _check_schema(text: str, param: str) -> None:
    _check_size(text, MAX_SCHEMA_BYTES, param)
    schema = msgspec.json.decode(text)
    if schema is False:
        raise BadRequest(f"`{param}` is the schema `false`, which allows no text.", param=param)
    if not isinstance(schema, dict | bool):
        raise BadRequest(f"`{param}` must be a JSON schema, that is an object.", param=param)
    divisors = 0
    for key, value, depth in _walk(schema):
        if depth > MAX_SCHEMA_DEPTH:
            raise BadRequest(
                f"`{param}` is nested more than {MAX_SCHEMA_DEPTH} levels deep; use `$ref`.",
                param=param,
            )
        if key == "$ref" and isinstance(value, str) and not value.startswith("#"):
            raise BadRequest(
                f"`{param}` refers to {value[:100]!r}; only references inside the schema, "
                "which begin with #, are followed.",
                param=param,
            )
        if isinstance(value, str):
            most = MAX_REGEX_BYTES if key == "pattern" else MAX_SCHEMA_STRING
            _check_size(value, most, param, f"`{param}` has a `{key}` that")
        if key == "multipleOf":
            divisors += _digits(value)
    if divisors > MAX_DIVISORS:
        raise BadRequest(
            f"`{param}` has a `multipleOf` that is too large or too precise; all of them may add "
            f"up to {MAX_DIVISORS}.",
            param=param,
        )


def _check_regex(text: str, param: str) -> None:
    _check_size(text, MAX_REGEX_BYTES, param)


def _check_choice(text: str, param: str) -> None:
    _check_size(text, MAX_CHOICE_BYTES, param)
    choices = msgspec.json.decode(text)
    if not choices or "" in choices:
        raise BadRequest(f"`{param}` must hold texts that are not empty.", param=param)
    if len(choices) > MAX_CHOICES:
        raise BadRequest(f"`{param}` must have at most {MAX_CHOICES} texts.", param=param)


def _check_lark(text: str, param: str) -> None:
    _check_size(text, MAX_LARK_BYTES, param)
    if not text.strip():
        raise BadRequest(
            f"`{param}` is empty; it must be a grammar with a rule `start`.", param=param
        )


class ToolCalls(msgspec.Struct):
    """What the text of a grammar of calls holds (see `mlc_llm.tools.calls_grammar`)."""

    lark: str
    """The rules; @schema_0 ... stand for the schemas, @content for the content."""
    schemas: list[tuple[str, dict[str, Any] | bool]]
    content: Grammar | None = None
    """What a text that is no call must match, where that is a grammar of its own."""


def _check_tools(text: str, param: str) -> None:
    _check_size(text, MAX_TOOLS_BYTES, param, "What `tools` make as a grammar")
    calls = msgspec.json.decode(text, type=ToolCalls)
    if calls.content is not None:
        check_grammar(calls.content)
    for name, schema in calls.schemas:
        try:
            _check_schema(msgspec.json.encode(schema).decode(), param)
        except BadRequest as error:
            message = f"The parameters of the tool `{name}` cannot be used: {error.message}"
            raise BadRequest(message, param=param) from error


def _check_tags(text: str, param: str) -> None:
    _check_size(text, MAX_TOOLS_BYTES, param)
    tags = msgspec.json.decode(text, type=Tags)
    check_tags(tags, param)
    for tag in tags.tags:
        _check_schema(msgspec.json.encode(tag.schema).decode(), param)


_CHECKS: dict[str, Callable[[str, str], None]] = {
    "json_schema": _check_schema,
    "regex": _check_regex,
    "choice": _check_choice,
    "lark": _check_lark,
    "tools": _check_tools,
    "structural_tag": _check_tags,
}


def _check_size(text: str, most: int, param: str, subject: str = "") -> None:
    size = len(text) if text.isascii() else len(text.encode())
    if size > most:
        raise BadRequest(
            f"{subject or f'`{param}`'} has {size} bytes; at most {most} are allowed.", param=param
        )


def _walk(value: Any) -> Iterator[tuple[str, Any, int]]:
    """Every value inside with its key ("" in a list) and how deep it lies; no recursion."""
    stack: list[tuple[str, Any, int]] = [("", value, 0)]
    while stack:
        key, value, depth = stack.pop()
        yield key, value, depth
        if isinstance(value, dict):
            stack += [(name, inner, depth + 1) for name, inner in value.items()]
        elif isinstance(value, list):
            stack += [(key, inner, depth + 1) for inner in value]


def _digits(value: Any) -> int:
    """The number without its decimal point: 12 for 1.2; 0 for what no schema can have there."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        return 0
    if not 1e-9 <= value <= MAX_DIVISORS:
        return MAX_DIVISORS + 1
    digits = Decimal(repr(value)).as_tuple().digits
    return int("".join(map(str, digits)))
