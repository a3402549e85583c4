"""What a grammar lets through: always a valid text, and a refusal where that cannot be promised."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from numpy.typing import NDArray

from mlc_llm.errors import BadRequest, EngineFault
from mlc_llm.grammar.tags import tags_grammar
from mlc_llm.protocol.generation import Grammar
from mlc_workers.guided.compiler import Compiler
from mlc_workers.request import GrammarTooComplex
from support.grammar_walks import TOKENIZER, Walker
from support.toy_tokenizers import byte_fallback, byte_level, write

WALKER = Walker()


def schema(value: Any) -> Grammar:
    return Grammar("json_schema", json.dumps(value), "response_format")


def names() -> st.SearchStrategy[str]:
    return st.text(st.sampled_from('ab"\\é中😀 /'), min_size=1, max_size=4)


def scalars() -> st.SearchStrategy[dict[str, Any]]:
    small = st.integers(-50, 50)
    return st.one_of(
        st.just({"type": "boolean"}),
        st.just({"type": "null"}),
        st.builds(
            lambda a, b: {"type": "string", "minLength": min(a, b), "maxLength": max(a, b)},
            st.integers(0, 5),
            st.integers(0, 5),
        ),
        st.builds(
            lambda a, b: {"type": "integer", "minimum": min(a, b), "maximum": max(a, b)},
            small,
            small,
        ),
        st.builds(
            lambda a, b: {"type": "number", "minimum": min(a, b) / 4, "exclusiveMaximum": b + 60},
            small,
            small,
        ),
        st.builds(lambda v: {"const": v}, st.one_of(names(), small, st.booleans())),
        st.builds(
            lambda v: {"enum": v}, st.lists(st.one_of(names(), small), min_size=1, max_size=4)
        ),
        st.just({"type": "string", "pattern": "^[a-z]{1,3}-[0-9]+$"}),
        st.just({"$ref": "#/$defs/shared"}),
    )


def containers(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    arrays = st.builds(
        lambda items, a, b: {
            "type": "array",
            "items": items,
            "minItems": min(a, b),
            "maxItems": max(a, b),
        },
        inner,
        st.integers(0, 3),
        st.integers(0, 3),
    )
    objects = st.dictionaries(names(), inner, max_size=3).flatmap(
        lambda fields: st.builds(
            lambda required, more: {
                "type": "object",
                "properties": fields,
                "required": required,
                "additionalProperties": more,
            },
            st.lists(st.sampled_from(sorted(fields)), unique=True) if fields else st.just([]),
            st.just(False),
        )
    )
    return st.one_of(arrays, objects, st.builds(lambda a, b: {"anyOf": [a, b]}, inner, inner))


SCHEMAS = st.recursive(scalars(), containers, max_leaves=5).map(
    lambda s: {**s, "$defs": {"shared": {"type": "array", "items": {"type": "integer"}}}}
)


@settings(max_examples=150, deadline=None)
@given(value=SCHEMAS, seed=st.integers(0, 2**32))
def test_every_complete_text_obeys_its_schema(value: dict[str, Any], seed: int) -> None:
    text = WALKER.walk(schema(value), seed)
    if text is not None:
        Draft202012Validator(value).validate(json.loads(text))


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "größe": {"type": "number", "minimum": 0, "maximum": 3},
        "tags": {"type": "array", "items": {"enum": ["új", "中文", 'a"b']}, "maxItems": 3},
        "friend": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    },
    "required": ["name", "friend"],
    "additionalProperties": False,
}


KEYS = {
    "type": "object",
    "properties": {
        "a rather long name of a property": {"enum": ["the quick brown fox", "the lazy dog"]},
        "größe": {"type": "object", "properties": {"inner": {"const": [1, "two", None]}}},
        "last": {"type": "boolean"},
    },
    "required": ["a rather long name of a property", "last"],
    "additionalProperties": False,
}
FORCING = {
    "long keys": schema(KEYS),
    "constant": schema({"const": {"some": ["fixed", "text", 1.5], "é": "中文😀"}}),
    "regex": Grammar("regex", "(hello world|help yourself) and goodbye(, friend)?", "r"),
    "choice": Grammar("choice", '["first choice", "second choice"]', "c"),
    "lark": Grammar("lark", 'start: "begin " (/[ab]/ " then go on ")+ "and end"', "g"),
    "names of tokens": schema({"enum": ["a<|im_end|>b", "<|im_start|>", "x <|endoftext|>"]}),
}


@pytest.mark.parametrize("grammar", FORCING.values(), ids=FORCING.keys())
@pytest.mark.parametrize("seed", range(5))
def test_what_is_forced_is_all_that_the_masks_would_have_let_through(
    grammar: Grammar, seed: int
) -> None:
    compiled = WALKER.compiler.compile(grammar)
    one, other = compiled.open(frozenset({0})), compiled.open(frozenset({0}))
    words = np.empty(one.num_words, np.uint32)
    rng = np.random.default_rng(seed)
    is_complete, num_forced = False, 0
    for _ in range(200):
        forced = one.forced()
        num_forced += len(forced)
        for token_id in forced:
            other.fill(words)
            assert bits_of(words) == [token_id]
            is_complete = other.accept(token_id)
            assert one.accept(token_id) == is_complete
        if is_complete:
            break
        one.fill(words)
        other.fill(words.copy())
        token_id = int(rng.choice(bits_of(words)))
        is_complete = one.accept(token_id)
        assert other.accept(token_id) == is_complete
        if is_complete or token_id == 0:
            break
    assert num_forced > 0


def byte_level_composed(words: list[str]) -> dict[str, Any]:
    return {**byte_level(words), "normalizer": {"type": "NFC"}}


@pytest.mark.parametrize(
    "text", ["<|end|>", "a <think> b", "<s></s>", "e\u0301a", "a\u2581b", "\u2581"]
)
@pytest.mark.parametrize("toy", [byte_fallback, byte_level_composed])
def test_a_text_that_the_tokenizer_takes_for_another_is_written_as_it_is(
    toy: Callable[[list[str]], dict[str, Any]], text: str, tmp_path: Path
) -> None:
    walker = Walker(write(tmp_path, toy(["<", "|", "</", "end"])), eos=2)
    for grammar in (schema({"const": text}), Grammar("choice", json.dumps([text, text]), "c")):
        found = walker.walk(grammar, 0)
        assert found is not None
        assert found.strip('"') == text
        guide, forced, is_complete = (
            walker.compiler.compile(grammar).open(frozenset({2})),
            b"",
            False,
        )
        while not is_complete and (tokens := guide.forced()):
            forced += b"".join(map(walker.table.bytes_of, tokens))
            is_complete = [guide.accept(token_id) for token_id in tokens][-1]
        assert forced.decode() == found


def bits_of(words: NDArray[np.uint32]) -> list[int]:
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist()


def test_nothing_is_forced_where_the_text_may_end() -> None:
    guide = WALKER.compiler.compile(Grammar("regex", "a(bcd)?", "r")).open(frozenset({0}))
    guide.accept(next(i for i in range(1024) if WALKER.table.bytes_of(i) == b"a"))
    assert guide.forced() == []


def test_most_random_texts_of_a_real_schema_come_to_an_end_and_obey_it() -> None:
    texts = [WALKER.walk(schema(PERSON), seed) for seed in range(40)]
    complete = [json.loads(text) for text in texts if text is not None]
    assert len(complete) > 20
    for value in complete:
        Draft202012Validator(PERSON).validate(value)


def test_properties_come_in_the_order_of_the_schema() -> None:
    assert WALKER.follows(schema(PERSON), '{"name":"x","friend":null}')
    assert not WALKER.follows(schema(PERSON), '{"friend":null,"name":"x"}')


@pytest.mark.parametrize("gap", ["", " ", "\n", "\n  ", "\r\n\t"])
def test_json_may_be_laid_out_as_people_do(gap: str) -> None:
    assert WALKER.follows(schema(PERSON), f'{{{gap}"name":{gap}"x",{gap}"friend":{gap}null{gap}}}')


@pytest.mark.parametrize("gap", ["  ", "\n\n", "\n" + " " * 41, " \n"])
def test_json_has_no_endless_blanks(gap: str) -> None:
    assert not WALKER.follows(schema(PERSON), f'{{{gap}"name":"x","friend":null}}')


def test_options_inside_a_schema_do_not_loosen_it() -> None:
    loose = {"x-guidance": {"lenient": True, "whitespace_pattern": " *"}, "not": {"type": "null"}}
    with pytest.raises(BadRequest, match="not"):
        WALKER.compiler.compile(schema(loose))


@settings(max_examples=50, deadline=None)
@given(
    choices=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6),
        min_size=1,
        max_size=6,
    ),
    seed=st.integers(0, 2**32),
)
def test_a_choice_is_one_of_its_texts_whatever_they_hold(choices: list[str], seed: int) -> None:
    grammar = Grammar("choice", json.dumps(choices), "guided_choice")
    assert WALKER.walk(grammar, seed) in choices
    assert all(WALKER.follows(grammar, choice) for choice in choices)


def test_a_regex_matches_the_whole_text() -> None:
    grammar = Grammar("regex", r"[a-c]{2,4}[0-9]+(x|yz)", "guided_regex")
    for seed in range(20):
        text = WALKER.walk(grammar, seed)
        assert text is None or re.fullmatch(grammar.text, text)


def test_a_grammar_in_larks_notation_is_followed() -> None:
    text = 'start: sum\nsum: number ("+" number)*\nnumber: /[0-9]{1,3}/\n'
    grammar = Grammar("lark", text, "guided_grammar")
    assert WALKER.follows(grammar, "12+3+456")
    assert not WALKER.follows(grammar, "12+")


def tags(*structures: tuple[str, Any, str], triggers: list[str]) -> Grammar:
    given = {
        "structures": [{"begin": b, "schema": s, "end": e} for b, s, e in structures],
        "triggers": triggers,
    }
    grammar = tags_grammar(given, "response_format")
    assert grammar is not None
    return grammar


TWO_TAGS = tags(
    ("<fn=add>", {"type": "array", "items": {"type": "integer"}}, "</fn>"),
    ("<fn=say>", {"type": "string", "maxLength": 5}, "</fn>"),
    ("[[", {"enum": ["x", "y"]}, "]]"),
    triggers=["<fn=", "[["],
)


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("", True),
        ("no tags, a < b, [1], <fn", True),
        ('<fn=add>[1,2]</fn> and [["x"]], done', True),
        ('<fn=say>"hi"</fn><fn=add>[]</fn>', True),
        ("<fn=", False),
        ("<fn=other>1</fn>", False),
        ('<fn=add>["a"]</fn>', False),
        ("<fn=add>[1]", False),
        ('text [["z"]]', False),
    ],
)
def test_what_is_between_marks_obeys_its_schema_and_other_text_is_free(
    text: str, is_right: bool
) -> None:
    assert WALKER.follows(TWO_TAGS, text) == is_right


def test_a_tag_that_cannot_be_followed_is_named() -> None:
    with pytest.raises(BadRequest, match=r"after '<fn=a>'.*uniqueItems"):
        WALKER.compiler.compile(tags(("<fn=a>", {"uniqueItems": True}, ""), triggers=["<fn"]))


def test_a_schema_of_a_tag_that_says_too_much_is_named_too() -> None:
    with pytest.raises(BadRequest, match=r"after '<fn=a>'.*minProperties"):
        WALKER.compiler.compile(tags(("<fn=a>", {"minProperties": 2}, ""), triggers=["<fn"]))


def test_a_mark_may_be_a_token_of_its_own() -> None:
    token_id, name = max((i, WALKER.table.bytes_of(i).decode()) for i in WALKER.table.special)
    assert token_id != 0
    grammar = tags((f"{name}f", {"type": "boolean"}, ""), triggers=[name])
    guide = WALKER.compiler.compile(grammar).open(frozenset({0}))
    for byte in b"hello ":
        guide.accept(next(i for i in range(1024) if WALKER.table.bytes_of(i) == bytes([byte])))
    guide.accept(token_id)
    words = np.empty(guide.num_words, np.uint32)
    guide.fill(words)
    assert {WALKER.table.bytes_of(i)[:1] for i in bits_of(words)} == {b"f"}


def test_an_end_token_of_the_request_may_come_where_the_text_is_complete() -> None:
    guide = WALKER.compiler.compile(Grammar("regex", "a+", "r")).open(frozenset({0, 7}))
    words = np.empty(guide.num_words, np.uint32)
    guide.fill(words)
    assert not words[0] & 0b10000001
    guide.accept(next(i for i in range(1024) if WALKER.table.bytes_of(i) == b"a"))
    guide.fill(words)
    assert words[0] & 0b10000001 == 0b10000001
    assert guide.accept(7)


def test_a_token_outside_the_mask_is_an_error_of_the_request() -> None:
    guide = WALKER.compiler.compile(Grammar("regex", "a", "r")).open(frozenset({0}))
    with pytest.raises(EngineFault):
        guide.accept(next(i for i in range(1024) if WALKER.table.bytes_of(i) == b"b"))


def test_a_step_that_is_too_much_work_is_the_grammars_fault() -> None:
    rules = ["start: r0", *(f"r{i}: r{i + 1} r{i + 1}" for i in range(40)), 'r40: "a"']
    guide = WALKER.compiler.compile(Grammar("lark", "\n".join(rules), "g")).open(frozenset({0}))
    words = np.empty(guide.num_words, np.uint32)

    def walk() -> None:
        for _ in range(20):
            guide.fill(words)
            guide.accept(bits_of(words)[0])
            guide.forced()

    with pytest.raises(GrammarTooComplex, match="limit"):
        walk()


def test_a_token_that_opens_too_many_ways_on_is_the_grammars_fault() -> None:
    many = schema({"type": "object", "properties": {f"p{i}": {} for i in range(3000)}})
    guide = WALKER.compiler.compile(many).open(frozenset({0}))
    with pytest.raises(GrammarTooComplex, match="max is"):
        guide.accept(next(i for i in range(1024) if WALKER.table.bytes_of(i) == b"{"))


def test_choices_of_one_request_do_not_share_their_place() -> None:
    compiled = WALKER.compiler.compile(Grammar("regex", "ab", "r"))
    first, second = compiled.open(frozenset({0})), compiled.open(frozenset({0}))
    token = next(i for i in range(1024) if WALKER.table.bytes_of(i) == b"a")
    first.accept(token)
    assert second.accept(token) is False


def test_a_tokenizer_with_byte_fallback_spells_its_spaces_and_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, byte_fallback(["yes", " no", '{"a":', " 1", "}"]))
    walker = Walker(path, eos=2)
    assert walker.walk(Grammar("choice", '["yes no", "é"]', "c"), 3) in ("yes no", "é")
    text = walker.walk(schema({"type": "object", "properties": {"a": {"const": 1}}}), 1)
    assert text is None or isinstance(json.loads(text), dict)


def test_logits_may_be_wider_than_the_tokenizer() -> None:
    compiler = Compiler(TOKENIZER, 1100, [0])
    assert compiler.compile(Grammar("regex", "a", "r")).open(frozenset({0})).num_words == 35


def chain(length: int) -> dict[str, Any]:
    links = {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(length)}
    return {"$ref": "#/$defs/0", "$defs": {**links, str(length): {"type": "string"}}}


REFUSED = {
    "refers to itself": schema({"$ref": "#"}),
    "refers in a circle": schema(
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
    ),
    "refers to nothing": schema({"$ref": "#/$defs/missing"}),
    "not": schema({"not": {"type": "string"}}),
    "if": schema({"if": {"type": "string"}, "then": {"maxLength": 1}}),
    "unique items": schema({"type": "array", "uniqueItems": True}),
    "no such type": schema({"type": "riddle"}),
    "contradiction": schema({"type": "integer", "minimum": 3, "maximum": 2}),
    "wrong keyword": schema({"type": "object", "properties": []}),
    "regex: open group": Grammar("regex", "((", "guided_regex"),
    "regex: look-ahead": Grammar("regex", "(?=a)b", "guided_regex"),
    "regex: look-behind": Grammar("regex", "(?<!a)b", "guided_regex"),
    "regex: reference": Grammar("regex", r"(a)\1", "guided_regex"),
    "regex: nothing matches": Grammar("regex", r"[^\s\S]", "guided_regex"),
    "regex: nested deeply": Grammar("regex", "(" * 2000 + "a" + ")" * 2000, "guided_regex"),
    "regex: too costly": Grammar("regex", "a?" * 2000, "guided_regex"),
    "lark: no start": Grammar("lark", 'x: "a"', "guided_grammar"),
    "lark: open group": Grammar("lark", "start: (", "guided_grammar"),
    "lark: unknown rule": Grammar("lark", "start: x", "guided_grammar"),
    "lark: endless": Grammar("lark", "start: start", "guided_grammar"),
    "lark: nested deeply": Grammar("lark", "start: " + "(" * 3000 + '"a"' + ")" * 3000, "g"),
    "lark: a file": Grammar("lark", '%import /etc/hostname\nstart: "a"', "guided_grammar"),
    "lark: another schema": Grammar("lark", 'start: %json {"$ref": "http://x/y"}', "g"),
}


@pytest.mark.parametrize("grammar", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_followed_is_refused_with_its_reason(grammar: Grammar) -> None:
    with pytest.raises(BadRequest) as caught:
        WALKER.compiler.compile(grammar)
    assert caught.value.param == grammar.param
    assert f"`{grammar.param}`" in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500


HEAVY = {
    "any value": schema({}),
    "recursion": schema(
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "additionalProperties": False}
    ),
    "many values": schema({"enum": [f"value {i}" for i in range(5000)]}),
    "long text": schema({"type": "string", "maxLength": 10**6}),
    "many items": schema({"type": "array", "maxItems": 10**6, "items": {"type": "integer"}}),
    "pattern": schema({"type": "string", "pattern": "^(a+)+b$"}),
    "regex: repeated repeats": Grammar("regex", "(a+)+b", "guided_regex"),
    "regex: a million": Grammar("regex", "a{1,1000000}", "guided_regex"),
    "regex: nested repeats": Grammar("regex", "(a{1,1000}){1,1000}", "guided_regex"),
    "regex: exponential automaton": Grammar("regex", "(a|b)*a(a|b){30}", "guided_regex"),
    "lark: left recursion": Grammar("lark", 'start: start "a" | "a"', "guided_grammar"),
    "lark: ambiguity": Grammar("lark", 'start: start start start | "a" |', "guided_grammar"),
}


@pytest.mark.parametrize("grammar", HEAVY.values(), ids=HEAVY.keys())
def test_what_looks_heavy_is_followed(grammar: Grammar) -> None:
    WALKER.walk(grammar, seed=1, max_tokens=60)
