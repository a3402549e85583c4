"""Values that a JSON schema allows, and now and then ones that it does not: what a fuzzer sends."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-1e3, 1e3) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
"""Anything at all, small."""

INTEGERS = st.integers(-3, 40) | st.sampled_from([-(2**63) - 1, -1, 0, 2**31, 2**63, 10**30])
NUMBERS = st.floats(-3, 3) | st.sampled_from([-1e30, 0.0, 1e-30, 1.0, 1e30])
TEXTS = st.text(max_size=12) | st.sampled_from(
    [
        "",
        "text",
        "user",
        "system",
        "assistant",
        "auto",
        "none",
        "float",
        "base64",
        "\ud7ff\U0001f600",
    ]
)
MAX_OPTIONAL = 6
"""Optional fields of an object that are there at a time."""


def values(schema: dict[str, Any], document: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Mostly what `schema` allows; `document` is where its references lead."""
    return _allowed(schema, document) | st.sampled_from([0, 1]).flatmap(
        lambda strange: JSON if strange else _allowed(schema, document)
    )


def _allowed(schema: dict[str, Any], document: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return st.deferred(lambda: _allowed(document["components"]["schemas"][name], document))
    if "anyOf" in schema:
        return st.one_of([_allowed(option, document) for option in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "string":
            return TEXTS
        case "integer":
            return INTEGERS
        case "number":
            return NUMBERS
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "array":
            return st.lists(values(schema.get("items") or {}, document), max_size=3)
        case "object":
            return _object(schema, document)
        case _:
            return JSON


@st.composite
def _object(draw: st.DrawFn, schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = schema.get("properties", {})
    if not fields:
        more = schema.get("additionalProperties")
        inner = values(more, document) if isinstance(more, dict) else JSON
        keys = st.text(max_size=5) | st.integers(0, 300).map(str)
        return draw(st.dictionaries(keys, inner, max_size=3))
    required = set(schema.get("required", ()))
    optional = sorted(fields.keys() - required)
    chosen = (
        draw(st.lists(st.sampled_from(optional), unique=True, max_size=MAX_OPTIONAL))
        if optional
        else []
    )
    if draw(st.integers(0, 9)) == 0:
        required = set()
    return {name: draw(values(fields[name], document)) for name in [*sorted(required), *chosen]}
