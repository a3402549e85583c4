"""Which grammar a request asks for, and which are refused before anything starts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlc_llm.errors import BadRequest
from mlc_llm.grammar.asked import ANY_OBJECT, grammar_of
from mlc_llm.grammar.limits import MAX_SCHEMA_DEPTH, check_grammar
from mlc_llm.protocol.generation import Grammar
from mlc_llm.protocol.requests import CompletionRequest, from_arguments

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}}
TEXT = json.dumps(SCHEMA, separators=(",", ":"))


def asked(**fields: Any) -> Grammar | None:
    return grammar_of(from_arguments(CompletionRequest, {"prompt": "x", **fields}))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": None},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "text"}, "guided_json": None},
    ],
)
def test_without_a_grammar_any_text_will_do(fields: dict[str, Any]) -> None:
    assert asked(**fields) is None


OPENAI = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
TAGS = {
    "structures": [
        {"begin": "<f=a>", "schema": {"type": "integer"}, "end": "</f>"},
        {"begin": "<f=b>", "schema": "{}"},
    ],
    "triggers": ["<f="],
}
TRIGGERED = {
    "type": "triggered_tags",
    "triggers": ["<f="],
    "tags": [
        {
            "begin": "<f=a>",
            "content": {"type": "json_schema", "json_schema": {"type": "integer"}},
            "end": "</f>",
        },
        {"begin": "<f=b>", "content": {"type": "json_schema", "json_schema": {}}, "end": ""},
    ],
}
TAGS_TEXT = '{"triggers":["<f="],"tags":[["<f=a>",{"type":"integer"},"</f>"],["<f=b>",{},""]]}'
GBNF_AS_LARK = 'start: T0\nT0: "a"\n'
ASKED: list[tuple[dict[str, Any], Grammar]] = [
    (
        {"response_format": {"type": "json_object"}},
        Grammar("json_schema", ANY_OBJECT, "response_format"),
    ),
    (
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        Grammar("json_schema", TEXT, "response_format.schema"),
    ),
    (
        {"response_format": {"type": "json_object", "schema": TEXT}},
        Grammar("json_schema", TEXT, "response_format.schema"),
    ),
    (
        {"response_format": OPENAI},
        Grammar("json_schema", TEXT, "response_format.json_schema.schema"),
    ),
    (
        {"response_format": {"type": "json_schema", "schema": True}},
        Grammar("json_schema", "true", "response_format.schema"),
    ),
    (
        {"structured_outputs": {"json": SCHEMA}},
        Grammar("json_schema", TEXT, "structured_outputs.json"),
    ),
    (
        {"structured_outputs": {"json_object": True}},
        Grammar("json_schema", ANY_OBJECT, "structured_outputs.json_object"),
    ),
    (
        {"structured_outputs": {"regex": "a+", "backend": "any"}},
        Grammar("regex", "a+", "structured_outputs.regex"),
    ),
    (
        {"structured_outputs": {"choice": ["a", "b"], "json_object": False}},
        Grammar("choice", '["a","b"]', "structured_outputs.choice"),
    ),
    (
        {"structured_outputs": {"grammar": 'start: "a"'}},
        Grammar("lark", 'start: "a"', "structured_outputs.grammar"),
    ),
    (
        {"response_format": {"type": "structural_tag", **TAGS}},
        Grammar("structural_tag", TAGS_TEXT, "response_format"),
    ),
    (
        {"response_format": {"type": "structural_tag", "format": TRIGGERED}},
        Grammar("structural_tag", TAGS_TEXT, "response_format"),
    ),
    (
        {"structured_outputs": {"structural_tag": {"type": "structural_tag", **TAGS}}},
        Grammar("structural_tag", TAGS_TEXT, "structured_outputs.structural_tag"),
    ),
    (
        {"structured_outputs": {"structural_tag": json.dumps({"format": TRIGGERED})}},
        Grammar("structural_tag", TAGS_TEXT, "structured_outputs.structural_tag"),
    ),
    ({"guided_json": TEXT}, Grammar("json_schema", TEXT, "guided_json")),
    ({"guided_regex": "a"}, Grammar("regex", "a", "guided_regex")),
    ({"guided_choice": ["é"]}, Grammar("choice", '["é"]', "guided_choice")),
    ({"guided_grammar": "start: /a/"}, Grammar("lark", "start: /a/", "guided_grammar")),
    ({"grammar": 'start: "a"'}, Grammar("lark", 'start: "a"', "grammar")),
    ({"grammar": 'root ::= "a"'}, Grammar("lark", GBNF_AS_LARK, "grammar")),
    ({"ebnf": 'root ::= "a"'}, Grammar("lark", GBNF_AS_LARK, "ebnf")),
    ({"guided_grammar": 'root ::= "a"'}, Grammar("lark", GBNF_AS_LARK, "guided_grammar")),
    (
        {"structured_outputs": {"grammar": 'root ::= "a"'}},
        Grammar("lark", GBNF_AS_LARK, "structured_outputs.grammar"),
    ),
    ({"regex": "a+", "ebnf": "", "grammar": ""}, Grammar("regex", "a+", "regex")),
    ({"json_schema": SCHEMA}, Grammar("json_schema", TEXT, "json_schema")),
    (
        {"response_format": {"type": "text"}, "guided_regex": "a"},
        Grammar("regex", "a", "guided_regex"),
    ),
]


@pytest.mark.parametrize(("fields", "grammar"), ASKED, ids=str)
def test_every_way_of_asking_is_understood(fields: dict[str, Any], grammar: Grammar) -> None:
    assert asked(**fields) == grammar


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


BAD: list[tuple[dict[str, Any], str]] = [
    ({"response_format": {}}, "response_format.type"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "riddle"}}, "response_format"),
    ({"response_format": {"type": "structural_tag"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        "response_format.json_schema",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": 3}}},
        "response_format.json_schema.schema",
    ),
    ({"response_format": {"type": "json_object", "schema": "{"}}, "response_format.schema"),
    ({"structured_outputs": {}}, "structured_outputs"),
    ({"structured_outputs": {"json_object": False}}, "structured_outputs"),
    ({"structured_outputs": {"json": ""}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": "[]"}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": "3"}}, "structured_outputs.json"),
    *(
        ({"structured_outputs": {"structural_tag": tag}}, "structured_outputs.structural_tag")
        for tag in (
            "",
            "{}",
            "[]",
            "[" * 100_000,
            {"structures": [], "triggers": []},
            {"structures": TAGS["structures"], "triggers": [""]},
            {"structures": TAGS["structures"], "triggers": ["<g="]},
            {"structures": TAGS["structures"], "triggers": ["<f="] * 65},
            {"structures": [{"begin": "<f", "schema": False}], "triggers": ["<f"]},
            {"structures": [{"begin": "<f", "schema": nested(70)}], "triggers": ["<f"]},
            {"structures": [{"begin": "<f", "schema": "{"}], "triggers": ["<f"]},
            {"structures": [{"begin": "<f" * 1000, "schema": {}}], "triggers": ["<f"]},
            {"format": {"type": "sequence", "elements": []}},
            {"format": TRIGGERED | {"at_least_one": True}},
            {"format": TRIGGERED | {"tags": [{"begin": "<f=", "content": {"type": "any_text"}}]}},
        )
    ),
    (
        {"structured_outputs": {"json": {}, "whitespace_pattern": " *"}},
        "structured_outputs.whitespace_pattern",
    ),
    ({"structured_outputs": {"regex": "a", "grammar": "b"}}, "structured_outputs.grammar"),
    ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
    ({"guided_json": False}, "guided_json"),
    ({"guided_json": "[" * 100_000}, "guided_json"),
    ({"guided_json": {"enum": [f"value {i}" for i in range(100_000)]}}, "guided_json"),
    ({"guided_json": nested(MAX_SCHEMA_DEPTH + 1)}, "guided_json"),
    ({"guided_json": {"$ref": "http://example.com/schema.json"}}, "guided_json"),
    ({"guided_json": {"items": {"$ref": "file:///etc/passwd"}}}, "guided_json"),
    ({"guided_json": {"pattern": "a" * 5000}}, "guided_json"),
    ({"guided_json": {"const": "a" * 20_000}}, "guided_json"),
    ({"guided_json": {"multipleOf": 1_000_003}}, "guided_json"),
    ({"guided_json": {"multipleOf": 1e-300}}, "guided_json"),
    ({"guided_json": {"prefixItems": [{"multipleOf": 8191}] * 9}}, "guided_json"),
    ({"guided_regex": "a" * 5000}, "guided_regex"),
    ({"guided_regex": "é" * 3000}, "guided_regex"),
    ({"guided_choice": []}, "guided_choice"),
    ({"guided_choice": ["a", ""]}, "guided_choice"),
    ({"guided_choice": ["a", 3]}, "guided_choice.1"),
    ({"guided_choice": ["a"] * 10_001}, "guided_choice"),
    ({"guided_choice": ["a" * 200_000]}, "guided_choice"),
    ({"guided_grammar": " \n"}, "guided_grammar"),
    ({"guided_grammar": "start: " + '"a" ' * 10_000}, "guided_grammar"),
]


@pytest.mark.parametrize(("fields", "param"), BAD, ids=lambda value: str(value)[:60])
def test_what_is_unreasonable_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        asked(**fields)
    assert caught.value.param == param or param == "guided_choice.1"
    assert f"`{caught.value.param}`" in caught.value.message
    assert len(caught.value.message) < 400


def test_the_largest_that_is_reasonable_is_accepted() -> None:
    check_grammar(Grammar("json_schema", json.dumps(nested(MAX_SCHEMA_DEPTH - 1)), "x"))
    check_grammar(Grammar("json_schema", json.dumps({"multipleOf": 0.25}), "x"))
    check_grammar(Grammar("json_schema", json.dumps({"properties": {"$ref": {}}}), "x"))
    check_grammar(Grammar("regex", "a" * 4096, "x"))
