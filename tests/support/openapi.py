"""OpenAI's published schema, as far as it says what a response must look like."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


@cache
def _lines(document: Path) -> list[str]:
    return document.read_text().splitlines()


class Schemas:
    """The component schemas of one OpenAPI document, each parsed when it is first asked for."""

    def __init__(self, document: Path) -> None:
        self._yaml = pytest.importorskip("yaml", reason="reads OpenAI's schema, which is YAML")
        self._document = document

    def check(self, name: str, value: object) -> None:
        """Fail the test unless `value` is what the schema `name` asks for."""
        assert self.problems(name, value) == []

    def fields(self, name: str) -> set[str]:
        """Every property of an object, those of what it is put together from included."""
        return self._fields(self._schema(name))

    def _fields(self, schema: dict[str, Any]) -> set[str]:
        if "$ref" in schema:
            return self.fields(schema["$ref"].split("/")[-1])
        inner = [self._fields(part) for part in schema.get("allOf", ())]
        return set(schema.get("properties", {})).union(*inner)

    def problems(self, name: str, value: object) -> list[str]:
        """What is wrong with `value`, one line each."""
        return list(self._problems(self._schema(name), value, name))

    @cache  # noqa: B019 - one instance per test
    def _schema(self, name: str) -> dict[str, Any]:
        """One schema is a block of lines that starts with its name, indented by four."""
        lines = _lines(self._document)
        start = lines.index(f"    {name}:")
        end = start + 1
        while end < len(lines) and (lines[end].startswith("     ") or not lines[end].strip()):
            end += 1
        parsed: dict[str, Any] = self._yaml.safe_load("\n".join(lines[start:end]))[name]
        return parsed

    def _problems(self, schema: dict[str, Any], value: Any, where: str) -> list[str]:
        if value is None and schema.get("nullable"):
            return []
        if "$ref" in schema:
            return self._problems(self._schema(schema["$ref"].split("/")[-1]), value, where)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                found = [self._problems(option, value, where) for option in schema[key]]
                return [] if [] in found else min(found, key=len)
        kind = schema.get("type")
        if kind and (not isinstance(value, _TYPES[kind]) or (value is True and kind != "boolean")):
            return [f"{where}: {value!r} is not of type {kind}"]
        if "enum" in schema and value not in schema["enum"]:
            return [f"{where}: {value!r} is not one of {schema['enum']}"]
        if isinstance(value, dict):
            return self._object_problems(schema, value, where)
        if isinstance(value, list):
            items = schema.get("items", {})
            return [
                p for i, v in enumerate(value) for p in self._problems(items, v, f"{where}[{i}]")
            ]
        return []

    def _object_problems(
        self, schema: dict[str, Any], value: dict[str, Any], where: str
    ) -> list[str]:
        found = [f"{where}: {k} is missing" for k in schema.get("required", ()) if k not in value]
        known = schema.get("properties", {})
        for key, inner in value.items():
            if key in known:
                found += self._problems(known[key], inner, f"{where}.{key}")
        return found
