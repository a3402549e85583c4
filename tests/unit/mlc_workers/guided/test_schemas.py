"""Schemas of real life: the values they allow get through, no others do, the rest are refused."""

from __future__ import annotations

import json
from datetime import date, datetime, time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.generation import Grammar
from mlc_workers.guided.schema import plain
from support.grammar_walks import Walker
from support.schema_suites import Case, judge, mask_bench, standard_suite
from support.shared import shared_path

WALKER = Walker()


def case(name: str, schema: Any, valid: list[Any], invalid: list[Any]) -> Case:
    values = [(json.dumps(value), True) for value in valid]
    return Case(name, schema, values + [(json.dumps(value), False) for value in invalid])


ORDER = {
    "type": "object",
    "required": ["id", "items"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
        "placed": {"type": "string", "format": "date"},
        "items": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/item"}},
        "note": {"type": ["string", "null"], "maxLength": 5},
    },
    "$defs": {
        "item": {
            "type": "object",
            "properties": {"n": {"type": "integer", "exclusiveMinimum": 0}, "more": {"$ref": "#"}},
            "required": ["n"],
            "additionalProperties": False,
        }
    },
}
CASES = [
    case(
        "an order",
        ORDER,
        [
            {"id": "AB-1234", "items": [{"n": 1}]},
            {"id": "AB-1234", "placed": "2024-02-29", "items": [{"n": 7}], "note": None},
            {"id": "AB-1234", "items": [{"n": 1, "more": {"id": "XY-0000", "items": [{"n": 9}]}}]},
        ],
        [
            {"id": "AB-123", "items": [{"n": 1}]},
            {"id": "AB-1234", "items": []},
            {"id": "AB-1234", "items": [{"n": 0}]},
            {"id": "AB-1234", "placed": "2023-02-29", "items": [{"n": 7}]},
            {"id": "AB-1234", "items": [{"n": 1}], "note": "longer"},
            {"id": "AB-1234", "items": [{"n": 1}], "else": 1},
            {"items": [{"n": 1}]},
        ],
    ),
    case("twice denied", {"not": {"not": {"type": "boolean"}}}, [True], [1, "a", None]),
    case("one branch", {"oneOf": [{"type": "integer"}]}, [1], ["a"]),
    case("nothing denied", {"type": "integer", "not": False}, [1], ["a"]),
    case("not unique", {"uniqueItems": False, "items": {"const": 1}}, [[1, 1]], [[2]]),
    case("then without if", {"then": False, "else": False, "type": "boolean"}, [True], [1]),
    case("if alone", {"if": {"const": 1}, "type": "integer"}, [1, 2], ["a"]),
    case(
        "any names",
        {"propertyNames": {}, "properties": {"a": {"const": 1}}},
        [{"a": 1}],
        [{"a": 2}],
    ),
    case("none depend", {"dependentRequired": {}, "dependencies": {}, "type": "null"}, [None], [1]),
    case("none counted", {"contains": {}, "minContains": 0, "type": "array"}, [[], [1]], [1]),
    case("no maximum of what", {"minContains": 2, "maxContains": 0, "type": "array"}, [[]], [1]),
    case("one at least", {"minProperties": 1, "type": "object"}, [{"a": 1}], [{}]),
    case(
        "two that are required",
        {"type": "object", "required": ["a", "b"], "minProperties": 2},
        [{"a": 1, "b": 1}],
        [{"a": 1}],
    ),
    case("two characters", {"type": "string", "minLength": 2.0, "maxLength": 2.0}, ["ab"], ["abc"]),
    case("two items", {"type": "array", "minItems": 2.0, "maxItems": 2.0}, [[1, 2]], [[1]]),
    case("any length", {"type": "string", "maxLength": 2**64, "minLength": 0.0}, ["", "ab"], [1]),
    case("up to 64 bits", {"type": "integer", "maximum": 2**64 - 1, "minimum": 0}, [0, 5], [-1]),
    case("far away", {"type": "number", "minimum": -(10**400), "maximum": 3}, [-1e9, 3], [4]),
    case("64 bits", {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, [-1, 3], ["a"]),
    case("draft 4", {"minimum": 3, "exclusiveMinimum": True, "type": "integer"}, [4], [3]),
    case("no object at all", {"type": "string", "minProperties": 2}, ["a"], [{"a": 1}]),
    case(
        "properties with the names of keywords",
        {"properties": {"uniqueItems": {"const": 0}, "then": {"const": 1}}},
        [{"uniqueItems": 0, "then": 1}],
        [{"uniqueItems": 1}, {"then": 0}],
    ),
    case("a format of their own", {"type": "string", "format": "topic"}, ["x y"], [1]),
    case("a property named not", {"properties": {"not": {"const": 1}}}, [{"not": 1}], [{"not": 2}]),
    case("values are no schemas", {"const": {"not": {"not": 1}}}, [{"not": {"not": 1}}], [1]),
    case("branches", {"anyOf": [{"maximum": 3}, {"minimum": 9}]}, [1, 10, "a"], [5]),
    case("both", {"allOf": [{"maximum": 3}, {"type": "number"}]}, [1, -2.5], [5, "a"]),
    case("distinct", {"oneOf": [{"type": "integer"}, {"type": "string"}]}, [1, "a"], [None]),
    case(
        "names by pattern",
        {"patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": False},
        [{}, {"a1": 1, "ab": 2}],
        [{"a": "x"}, {"b": 1}],
    ),
    case("tuples", {"prefixItems": [{"const": 1}], "items": {"const": 2}}, [[1, 2], []], [[2]]),
    case("steps", {"type": "number", "multipleOf": 0.25}, [1.75, 2], [1.1]),
    case("times", {"type": "string", "format": "time"}, ["12:30:59Z"], ["12:30:60Z", "25:00:00Z"]),
    case(
        "moments",
        {"type": "string", "format": "date-time"},
        ["2000-02-29T12:00:00Z", "1999-12-31T23:59:59.5+01:00"],
        ["1900-02-29T12:00:00Z", "2024-04-31T12:00:00Z", "2024-04-30T23:59:60Z"],
    ),
]


@pytest.mark.parametrize("one", CASES, ids=[one.name for one in CASES])
def test_valid_values_get_through_and_no_others(one: Case) -> None:
    found = judge(WALKER, [one])
    assert found.refused == {}
    assert found.accepted_wrongly == []
    assert found.rejected_wrongly == []


REFUSED = {
    "not": {"not": {"type": "string"}},
    "dependencies": {"dependencies": {"a": ["b"]}},
    "uniqueItems": {"uniqueItems": True},
    "if": {"if": {"type": "string"}, "then": {"maxLength": 1}},
    "contains": {"contains": {"const": 1}},
    "propertyNames": {"propertyNames": {"maxLength": 3}},
    "minContains": {"contains": True, "minContains": 2},
    "maxContains": {"contains": True, "minContains": 0, "maxContains": 2},
    "dependentRequired": {"dependentRequired": {"a": ["b"]}},
    "dependentSchemas": {"dependentSchemas": {"a": {"required": ["b"]}}},
    "then": {"$ref": "#/then", "then": {"type": "null"}},
    "unevaluatedItems": {"unevaluatedItems": False},
    "minProperties": {"minProperties": 2, "additionalProperties": {"type": "integer"}},
    "`minProperties` above 1": {"minProperties": 2.0},
    "`maxLength` must be a whole number that is not negative, not 2.5": {"maxLength": 2.5},
    "`minItems` must be a whole number that is not negative, not -1": {"minItems": -1},
    "`maxItems` must be a whole number that is not negative, not true": {"maxItems": True},
    "`maxProperties` must be a whole number that is not negative, not null": {
        "maxProperties": None
    },
    "`multipleOf` must be a number above 0, not 0": {"type": "number", "multipleOf": 0},
    "`minimum` must be less than 2**63 away": {"type": "integer", "minimum": 2**63},
    '`maximum` must be a number, not "3"': {"type": "integer", "maximum": "3"},
    "a whole number of more than 64 bits": {"const": 2**80},
    "unevaluatedProperties": {"unevaluatedProperties": False},
    "$dynamicRef": {"$dynamicRef": "#x"},
    "uri-template": {"type": "string", "format": "uri-template"},
    "oneOf": {"oneOf": [{"maximum": 3}, {"minimum": 1}]},
    "look-around": {"type": "string", "pattern": "(?!a)b"},
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_cannot_be_enforced_is_refused_and_named(word: str) -> None:
    with pytest.raises(BadRequest) as caught:
        WALKER.compiler.compile(Grammar("json_schema", json.dumps(REFUSED[word]), "guided_json"))
    assert word in caught.value.message
    assert "guided_json" in caught.value.message


@pytest.mark.parametrize("name", ["date", "uuid", "ipv4", "ipv6", "email"])
def test_random_texts_of_a_format_have_it(name: str) -> None:
    schema = {"type": "string", "format": name, "maxLength": 60}
    for seed in range(12):
        text = WALKER.walk(Grammar("json_schema", json.dumps(schema), "s"), seed)
        if text is not None:
            Draft202012Validator(schema, format_checker=FormatChecker()).validate(json.loads(text))


@pytest.mark.parametrize(
    ("name", "parse"),
    [
        ("date", date.fromisoformat),
        ("time", time.fromisoformat),
        ("date-time", datetime.fromisoformat),
    ],
)
def test_random_dates_and_times_are_read_by_python(name: str, parse: Any) -> None:
    grammar = Grammar("json_schema", json.dumps({"type": "string", "format": name}), "s")
    texts = [WALKER.walk(grammar, seed) for seed in range(40)]
    parsed = [parse(json.loads(text)) for text in texts if text is not None]
    assert len(parsed) > 10


@pytest.mark.parametrize(("name", "day"), [("time", ""), ("date-time", "2024-02-29T")])
def test_a_second_has_at_most_nine_decimals(name: str, day: str) -> None:
    schema = json.dumps({"type": "string", "format": name})
    compiled = WALKER.compiler.compile(Grammar("json_schema", schema, "s"))
    for count in (0, 1, 9, 10, 300):
        decimals = "." + "5" * count if count else ""
        is_taken = WALKER.accepts(compiled, f'"{day}10:20:30{decimals}Z"')
        assert is_taken == (count <= 9), count


def test_every_day_of_the_calendar_and_no_other_is_a_date() -> None:
    compiled = WALKER.compiler.compile(
        Grammar("json_schema", '{"type": "string", "format": "date"}', "s")
    )
    for year in (1, 4, 100, 400, 1900, 1999, 2000, 2024, 9999):
        for month, day in ((1, 31), (2, 28), (2, 29), (2, 30), (4, 30), (4, 31), (12, 31), (13, 1)):
            text = f"{year:04}-{month:02}-{day:02}"
            try:
                date.fromisoformat(text)
                is_day = True
            except ValueError:
                is_day = False
            assert WALKER.accepts(compiled, f'"{text}"') == is_day, text
    assert not WALKER.accepts(compiled, '"0000-01-01"')


KEYWORDS = st.sampled_from(["not", "oneOf", "allOf", "anyOf", "properties", "const", "type"])
JSON = st.recursive(
    st.booleans() | st.integers(-2, 2) | st.sampled_from(["string", "integer", "#"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYWORDS, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(schema=st.dictionaries(KEYWORDS, JSON, max_size=3))
def test_schemas_that_make_no_sense_are_said_plainly_without_a_crash(schema: Any) -> None:
    before = json.dumps(schema)
    json.dumps(plain(schema))
    assert json.dumps(schema) == before


TYPES = st.sampled_from([{"type": "string"}, {"type": "integer"}, {"const": 1}, {"maximum": 3}])
WRAPPED = st.recursive(
    TYPES,
    lambda inner: st.one_of(
        st.builds(lambda s: {"not": {"not": s}}, inner),
        st.builds(lambda s: {"oneOf": [s]}, inner),
        st.builds(lambda s: {"not": s}, inner),
        st.builds(lambda s, t: {"allOf": [s], **t}, inner, inner),
        st.builds(lambda s: {"properties": {"not": s}}, inner),
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(schema=WRAPPED, value=st.sampled_from([1, 4, "a", None, {"not": 1}, {"not": "a"}, [], 1.5]))
def test_plain_schemas_allow_the_same_values(schema: dict[str, Any], value: Any) -> None:
    expected = Draft202012Validator(schema).is_valid(value)
    assert Draft202012Validator(plain(schema)).is_valid(value) == expected


def test_a_reference_into_a_wrapping_still_finds_its_place() -> None:
    wrapped = {"not": {"not": {"type": "integer"}}}
    schema = {"properties": {"a": wrapped, "b": {"$ref": "#/properties/a/not/not"}}}
    assert plain(schema) == schema


def test_mask_bench_is_covered_as_far_as_the_documentation_says() -> None:
    found = judge(WALKER, mask_bench(shared_path("data/suites/maskbench/maskbench_dev.jsonl")))
    assert found.num_schemas == 526
    assert found.num_followed >= 448
    assert found.accepted_wrongly == []
    assert len({name for name, _ in found.rejected_wrongly}) <= 2


def test_the_standard_suite_finds_nothing_accepted_wrongly_but_a_mark_of_byte_order() -> None:
    found = judge(WALKER, standard_suite(shared_path("data/suites/JSON-Schema-Test-Suite/tests")))
    assert found.num_followed >= 182
    assert {text for _, text in found.accepted_wrongly} <= {'"\ufeff"'}
