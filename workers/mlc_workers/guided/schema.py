"""JSON schemas, said in the words that the grammar library knows. Pure; knows no library.

What comes out allows the same values, or fewer where JSON Schema is looser than every parser:

    format: "x-mine"        dropped: to JSON Schema a format that nobody defined is a remark
    not: {not: S}           S, and so a single branch of oneOf
    uniqueItems: false      dropped, as all that says nothing: then without if, propertyNames: {}
    format: date, time ...  no year 0, 30th of February, leap second, small t or z, 10th decimal
    format: hostname        no two hyphens in a row, at most 253 characters

What it cannot say so stays as it is, and the library refuses it by name; but for `minProperties`,
which the library counts by the names that are written, and the same name may be written twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from mlc_workers.guided.numbers import checked_number

DEFINED_FORMATS = frozenset(
    "date-time date time duration email idn-email hostname idn-hostname ipv4 ipv6 uri "
    "uri-reference iri iri-reference uuid uri-template json-pointer relative-json-pointer "
    "regex".split()
)
"""Of JSON Schema 2020-12."""

_ONE = frozenset(
    "additionalItems additionalProperties contains contentSchema else if items not propertyNames "
    "then unevaluatedItems unevaluatedProperties".split()
)
_LIST = frozenset(("allOf", "anyOf", "items", "oneOf", "prefixItems"))
_MAP = frozenset(
    "$defs definitions dependencies dependentSchemas patternProperties properties".split()
)
"""Keywords whose value is a schema, a list of schemas, or schemas by name."""

_NEED = {
    "if": {"then", "else"},
    "then": {"if"},
    "else": {"if"},
    "minContains": {"contains"},
    "maxContains": {"contains"},
}
"""Keywords that say nothing without one of others."""
_SAYS_NOTHING: dict[str, tuple[Any, ...]] = {
    "uniqueItems": (False,),
    "propertyNames": (True, {}),
    "unevaluatedItems": (True, {}),
    "unevaluatedProperties": (True, {}),
    "dependencies": ({},),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
}
"""Values with which a keyword allows everything."""

_YEAR = "([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
_OF_FOUR = "(0[48]|[2468][048]|[13579][26])"
_LEAP_YEAR = f"([0-9]{{2}}{_OF_FOUR}|{_OF_FOUR}00)"
_DAY = (
    f"({_YEAR}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    f"|02-(0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_TIME = r"([0-9]{2}:){2}[0-5][0-9](\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})"
_LABEL = "[0-9A-Za-z]+(-[0-9A-Za-z]+)*"
_STRICTER: dict[str, dict[str, Any]] = {
    "date": {"pattern": f"^{_DAY}$"},
    "time": {"pattern": f"^{_TIME}$"},
    "date-time": {"pattern": f"^{_DAY}T{_TIME}$"},
    "hostname": {"pattern": rf"^{_LABEL}(\.{_LABEL})*$", "maxLength": 253},
}
"""What is asked of texts beside their format: the library takes these formats too lightly."""


_MOVED = frozenset(("not", "oneOf", "contains", *_NEED, *_SAYS_NOTHING))


def plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A new schema. `schema` is at most as deep as `limits.MAX_SCHEMA_DEPTH`.

    Raises ValueError for what the library would take and not enforce, and for numbers that a
    keyword cannot have.
    """
    moved = any(not _MOVED.isdisjoint(path.split("/")) for path in _references(schema))
    return _node(schema, may_move=not moved)


def _node(schema: dict[str, Any], may_move: bool) -> dict[str, Any]:
    """`may_move`: no reference leads into what is moved."""

    def inner(value: Any) -> Any:
        return _node(value, may_move) if isinstance(value, dict) else value

    found = {key: _inside(key, checked_number(key, value), inner) for key, value in schema.items()}
    _check_min_properties(found)
    also: list[Any] = []
    if may_move:
        _drop_remarks(found)
        also += _unwrap(found)
    name = found.get("format")
    if isinstance(name, str):
        if name not in DEFINED_FORMATS:
            del found["format"]
        elif name in _STRICTER:
            also.append(_STRICTER[name])
    if also and isinstance(found.get("allOf", []), list):
        found["allOf"] = [*found.get("allOf", []), *also]
    return found


def _inside(key: str, value: Any, inner: Callable[[Any], Any]) -> Any:
    """The value of a keyword with `inner` of every schema in it."""
    if key in _MAP and isinstance(value, dict):
        return {name: inner(schema) for name, schema in value.items()}
    if key in _LIST and isinstance(value, list):
        return [inner(schema) for schema in value]
    return inner(value) if key in _ONE else value


def _check_min_properties(schema: dict[str, Any]) -> None:
    least, kinds = schema.get("minProperties"), schema.get("type", "object")
    required = schema.get("required")
    if type(least) is not int or least < 2 or "object" not in kinds:
        return
    if isinstance(required, list) and len(set(map(str, required))) >= least:
        return
    if schema.get("additionalProperties") is not False or schema.get("patternProperties"):
        raise ValueError(
            "`minProperties` above 1 is supported only where as many properties are `required`"
        )


def _drop_remarks(schema: dict[str, Any]) -> None:
    """Take out keywords that deny no value."""
    if schema.get("minContains") == 0 and "maxContains" not in schema:
        schema.pop("contains", None)
    idle = [
        name
        for name, value in schema.items()
        if any(value is one or (one == {} == value) for one in _SAYS_NOTHING.get(name, ()))
        or (name in _NEED and not _NEED[name] & schema.keys())
    ]
    for name in idle:
        del schema[name]


def _unwrap(schema: dict[str, Any]) -> Iterator[Any]:
    """Take out what is a schema in a wrapping that says nothing."""
    denied = schema.get("not")
    if denied is False or denied in ({"not": {}}, {"not": True}):
        del schema["not"]
    elif isinstance(denied, dict) and denied.keys() == {"not"} and denied["not"] is not False:
        yield schema.pop("not")["not"]
    branches = schema.get("oneOf")
    if isinstance(branches, list) and len(branches) == 1:
        yield schema.pop("oneOf")[0]


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref" and isinstance(inner, str):
                yield inner
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)
