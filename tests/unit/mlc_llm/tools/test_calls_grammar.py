"""Texts that the grammar of a format lets through, read back by its reader."""

from __future__ import annotations

import json

import jsonschema
import pytest

from mlc_llm.errors import BadRequest, EngineFault
from mlc_llm.grammar.tags import tags_grammar
from mlc_llm.protocol.generation import Grammar
from mlc_llm.tools.calls_grammar import grammar_of
from mlc_llm.tools.formats import HERMES, THINK, TOOL_FORMATS, open_reader
from mlc_llm.tools.shape import write_calls
from mlc_llm.tools.thoughts import ThoughtFormat
from mlc_llm.tools.tool import Tool
from support.grammar_walks import TOKENIZER, Walker
from support.tool_texts import TOOLS, calls_of, read, text_of

FORMATS = pytest.mark.parametrize("form", TOOL_FORMATS.values(), ids=list(TOOL_FORMATS))
STRICT = tuple(Tool(tool.name, tool.parameters, strict=True) for tool in TOOLS)
SCHEMAS = {tool.name: tool.parameters for tool in TOOLS}
ADDED = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
SEEDS = range(12)


@pytest.fixture(scope="module")
def walker() -> Walker:
    return Walker()


def validate(calls) -> None:
    for name, arguments in calls:
        assert isinstance(arguments, dict)
        jsonschema.validate(arguments, SCHEMAS[name])


@FORMATS
@pytest.mark.parametrize("parallel", [False, True])
def test_a_required_call_is_one_that_is_read_and_obeys_its_schema(form, parallel, walker):
    grammar = grammar_of(form, TOOLS, required=True, parallel=parallel, added_tokens=ADDED)
    texts = [text for seed in SEEDS if (text := walker.walk(grammar, seed)) is not None]
    assert len(texts) > len(SEEDS) // 2
    for text in texts:
        events = read(open_reader(TOOLS, form), list(text))
        calls = calls_of(events)
        assert text_of(events) == ""
        assert len(calls) == 1 or (parallel and len(calls) > 1), text
        validate(calls)


@FORMATS
def test_where_calls_are_free_a_strict_tool_is_called_as_its_schema_says_or_not_at_all(
    form, walker
):
    grammar = grammar_of(form, STRICT, required=False, parallel=True, added_tokens=ADDED)
    good = write_calls(form.shape, [("get_weather", '{"city":"Rome","days":2}'), ("now", "{}")])
    bad = write_calls(form.shape, [("get_weather", '{"town":"Rome"}')])
    assert walker.follows(grammar, good)
    assert not walker.follows(grammar, bad)
    assert walker.follows(grammar, "Nothing to call.\nReally: {} [] ()")
    for seed in SEEDS:
        text = walker.walk(grammar, seed)
        if text is not None:
            validate(calls_of(read(open_reader(STRICT, form), [text])))


def test_text_may_come_before_a_free_call_that_has_a_marker(walker):
    grammar = grammar_of(HERMES, STRICT, required=False, parallel=False, added_tokens=ADDED)
    call = write_calls(HERMES.shape, [("now", "{}")])
    assert walker.follows(grammar, "Let me look.\n" + call)
    assert not walker.follows(grammar, call + "\n" + call)


BAD_CALL = write_calls(HERMES.shape, [("get_weather", '{"town":"Rome"}')])
NOW = write_calls(HERMES.shape, [("now", "{}")])


def held(added: dict[str, int], content: Grammar | None = None, **changes) -> Grammar:
    asked = {"required": False, "parallel": True, "thoughts": None, "content": content, **changes}
    grammar = grammar_of(HERMES, STRICT, added_tokens=added, **asked)
    assert grammar is not None
    return grammar


@pytest.mark.parametrize("added", [{}, {"<tool_call>": 2}], ids=["text", "token"])
def test_a_marker_that_is_spelled_letter_by_letter_opens_no_call_that_obeys_nothing(added, walker):
    anything = Grammar("regex", r"(.|\n)*", "r")
    for grammar in (held(added), held(added, anything)):
        assert walker.follows(grammar, "Hello")
        assert walker.follows(grammar, NOW) == (not added)
        assert not walker.follows(grammar, BAD_CALL)


def test_the_end_of_a_thought_is_not_spelled_letter_by_letter(walker):
    thoughts = ThoughtFormat("special", "<|im_start|>", "<|im_end|>")
    grammar = held(ADDED, thoughts=thoughts, inside_thought=True)
    guide = walker.compiler.compile(grammar).open(frozenset({0}))
    single = {walker.table.bytes_of(i): i for i in range(len(walker.table))}
    for character in "hm<|im_end|":
        guide.accept(single[character.encode()])
    with pytest.raises(EngineFault):
        guide.accept(single[b">"])


def test_a_lark_grammar_says_what_an_answer_without_calls_is(walker):
    grammar = held({}, Grammar("lark", 'start: (A ", ")* "end"\nA: /[ab]+/', "g"))
    assert walker.follows(grammar, "ab, b, end")
    assert walker.follows(grammar, NOW)
    assert not walker.follows(grammar, "ab, c, end")
    assert not walker.follows(grammar, BAD_CALL)


def test_structural_tags_say_what_an_answer_without_calls_is(walker):
    one = {"begin": "<a>", "schema": {"type": "integer"}, "end": "</a>"}
    tags = tags_grammar({"structures": [one], "triggers": ["<a"]}, "response_format")
    grammar = held({}, tags)
    assert walker.follows(grammar, "so <a>17</a> it is")
    assert walker.follows(grammar, NOW)
    assert not walker.follows(grammar, "so <a>x</a> it is")


def test_a_lark_grammar_beside_calls_that_is_wrong_is_named(walker):
    with pytest.raises(BadRequest, match="`g`"):
        walker.compiler.compile(held({}, Grammar("lark", "start: @schema_0", "g")))


def test_nothing_is_enforced_where_calls_are_free_and_no_tool_is_strict():
    assert grammar_of(HERMES, TOOLS, required=False, parallel=True, added_tokens={}) is None


def thinking_first(thoughts: ThoughtFormat, inside: bool) -> Grammar:
    grammar = grammar_of(
        HERMES,
        TOOLS,
        required=True,
        parallel=True,
        added_tokens=ADDED,
        thoughts=thoughts,
        inside_thought=inside,
    )
    assert grammar is not None
    return grammar


def test_a_thought_may_come_before_a_required_call(walker):
    call = write_calls(HERMES.shape, [("now", "{}")])
    outside, inside = thinking_first(THINK, False), thinking_first(THINK, True)
    assert walker.follows(outside, call)
    assert walker.follows(outside, f"<think>\nWhy?\n</think>\n\n{call}")
    assert not walker.follows(outside, f"Why?\n</think>\n\n{call}")
    assert walker.follows(inside, f"Why?\n</think>\n\n{call}")
    assert not walker.follows(inside, "Why?\n</think>\n\nHi")


@pytest.mark.parametrize("inside", [False, True])
def test_a_thought_between_special_tokens_may_come_first(inside, walker):
    thoughts = ThoughtFormat("special", "<|im_start|>", "<|im_end|>")
    grammar = thinking_first(thoughts, inside)
    texts = [text for seed in SEEDS if (text := walker.walk(grammar, seed)) is not None]
    assert texts
    for text in texts:
        events = read(open_reader(TOOLS, HERMES, thoughts, inside), [text])
        assert calls_of(events)
        validate(calls_of(events))


def test_markers_that_are_tokens_of_the_vocabulary_are_asked_for_by_their_ids(walker):
    grammar = grammar_of(
        HERMES, TOOLS, required=True, parallel=True, added_tokens={"<tool_call>": 2}
    )
    assert "<[2]>" in json.loads(grammar.text)["lark"]
    text = next(text for seed in SEEDS if (text := walker.walk(grammar, seed)) is not None)
    assert text.startswith("<|im_end|>\n{")  # what token 2 is called in this vocabulary


@pytest.mark.parametrize("name", ["mistral", "mistral_args"])
def test_a_blank_may_follow_a_marker_where_tokenizers_put_one(name, walker):
    form = TOOL_FORMATS[name]
    added = {"[TOOL_CALLS]": 2}
    grammar = grammar_of(form, TOOLS, required=True, parallel=False, added_tokens=added)
    texts = [text for seed in range(40) if (text := walker.walk(grammar, seed)) is not None]
    texts = [text.replace("<|im_end|>", "[TOOL_CALLS]") for text in texts]  # token 2's name here
    assert {text[len("[TOOL_CALLS]")] == " " for text in texts} == {False, True}
    for text in texts:
        events = read(open_reader(TOOLS, form), [text])
        assert len(calls_of(events)) == 1
        assert text_of(events) == ""


def test_a_schema_that_cannot_be_enforced_is_refused_with_the_name_of_the_tool(walker):
    tools = [*TOOLS, Tool("odd", {"type": "object", "not": {"required": ["x"]}})]
    grammar = grammar_of(HERMES, tools, required=True, parallel=True, added_tokens={})
    with pytest.raises(BadRequest, match=r"tool `odd`.*not"):
        walker.compiler.compile(grammar)


def test_a_schema_that_is_nested_too_deep_is_refused_before_it_is_compiled():
    schema: dict = {"type": "object"}
    for _ in range(100):
        schema = {"type": "object", "properties": {"x": schema}}
    with pytest.raises(BadRequest, match="tool `deep`"):
        grammar_of(HERMES, [Tool("deep", schema)], required=True, parallel=True, added_tokens={})


def test_a_tool_without_parameters_takes_an_empty_object(walker):
    grammar = grammar_of(HERMES, [Tool("now")], required=True, parallel=False, added_tokens={})
    assert walker.follows(grammar, write_calls(HERMES.shape, [("now", "{}")]))
    assert not walker.follows(grammar, write_calls(HERMES.shape, [("now", '{"a":1}')]))


@pytest.mark.parametrize(
    ("more", "is_closed"),
    [
        ({}, True),
        ({"additionalProperties": True}, False),
        ({"patternProperties": {"^b": {}}}, False),
        ({"required": ["a"]}, True),
        ({"required": ["b"]}, False),
        ({"allOf": [{"properties": {"b": {}}}]}, False),
    ],
)
def test_a_function_takes_the_parameters_that_it_names(walker, more, is_closed):
    schema = {"properties": {"a": {"type": "integer"}}, **more}
    tool = Tool("now", schema)
    grammar = grammar_of(HERMES, [tool], required=True, parallel=False, added_tokens={})
    assert walker.follows(grammar, write_calls(HERMES.shape, [("now", '{"a":1}')])) != (
        "b" in schema.get("required", ())
    )
    other = write_calls(HERMES.shape, [("now", '{"a":1,"b":2}')])
    assert walker.follows(grammar, other) != is_closed


def test_the_packaged_tokenizer_is_where_the_walks_find_it():
    assert TOKENIZER.exists()
