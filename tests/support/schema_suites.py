"""Suites of JSON schemas with values that they allow and values that they do not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.generation import Grammar
from support.grammar_walks import Walker


class Case(NamedTuple):
    """A schema; `values` are JSON texts, and whether each is valid."""

    name: str
    schema: Any
    values: list[tuple[str, bool]]


class Coverage(NamedTuple):
    """What became of a suite."""

    num_schemas: int
    num_followed: int
    """Schemas all of whose values were judged rightly."""
    refused: Counter[str]
    """By reason."""
    accepted_wrongly: list[tuple[str, str]]
    rejected_wrongly: list[tuple[str, str]]
    """Names of schemas and values."""


def mask_bench(path: Path) -> Iterator[Case]:
    """A file of MaskBench's, one schema per line."""
    for line in path.read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        yield Case(one["file"], one["schema"], _values(one["tests"]))


def standard_suite(path: Path) -> Iterator[Case]:
    """The folder of tests of the JSON-Schema-Test-Suite."""
    for file in sorted(path.rglob("*.json")):
        for one in json.loads(file.read_text(encoding="utf-8")):
            name = f"{file.relative_to(path)}: {one['description']}"
            yield Case(name, one["schema"], _values(one["tests"]))


def judge(walker: Walker, cases: Iterable[Case]) -> Coverage:
    """Compile every schema as requests do, and follow every value byte by byte."""
    found = Coverage(0, 0, Counter(), [], [])
    schemas = followed = 0
    for case in cases:
        schemas += 1
        grammar = Grammar("json_schema", json.dumps(case.schema), "schema")
        try:
            compiled = walker.compiler.compile(grammar)
        except BadRequest as error:
            found.refused[error.message] += 1
            continue
        wrong = [
            (text, valid) for text, valid in case.values if walker.accepts(compiled, text) != valid
        ]
        followed += not wrong
        for text, valid in wrong:
            (found.rejected_wrongly if valid else found.accepted_wrongly).append((case.name, text))
    return found._replace(num_schemas=schemas, num_followed=followed)


def _values(tests: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    return [(_text(test["data"]), test["valid"]) for test in tests]


def _text(value: Any) -> str:
    """As models write it; half a surrogate pair can only be escaped."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text
