"""GBNF is read as llama.cpp means it; what is wrong is told by its line."""

from __future__ import annotations

import re

import pytest

from mlc_llm.grammar.gbnf import ANY, OneOf, Ref, Repeat, Set, Text, is_gbnf, read_gbnf
from mlc_llm.grammar.gbnf_lark import lark_of_gbnf


def only(text: str) -> object:
    """The one item of `root`."""
    ((item,),) = read_gbnf(f"root ::= {text}")["root"].options
    return item


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ('"a b"', Text("a b")),
        (r'"\"\\\n\x41\u00e9\U0001F600\["', Text('"\\\nAé😀[')),
        ('"# no remark"', Text("# no remark")),
        ("[a-z_]", Set(((97, 122), (95, 95)))),
        ("[^\\n]", Set(((10, 10),), is_negated=True)),
        ("[-+]", Set(((45, 45), (43, 43)))),
        ("[a\\-z]", Set(((97, 97), (45, 45), (122, 122)))),
        ("[a-]", Set(((97, 97), (45, 45)))),
        ("[\\x00-\\x1F\\]]", Set(((0, 31), (93, 93)))),
        (".", ANY),
        ('"a"*', Repeat(Text("a"), 0, None)),
        ('"a"{2}', Repeat(Text("a"), 2, 2)),
        ('"a"{2,}', Repeat(Text("a"), 2, None)),
        ('"a"{ 2 , 3 }', Repeat(Text("a"), 2, 3)),
        ('("a" | "b" "c")', OneOf(((Text("a"),), (Text("b"), Text("c"))))),
        ("root?", Repeat(Ref("root"), 0, 1)),
    ],
)
def test_every_kind_of_item_is_read(text: str, item: object) -> None:
    assert only(text) == item


def test_a_rule_goes_on_until_the_next_one_and_may_be_empty() -> None:
    rules = read_gbnf('root ::=\n  "a" # one\n | b-c\n\tb-c\n\nb-c ::= | "x"\r\nd ::=')
    assert rules["root"].options == ((Text("a"),), (Ref("b-c"), Ref("b-c")))
    assert rules["b-c"].options == ((), (Text("x"),))
    assert rules["d"].options == ((),)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("root ::= a", "`root` names `a`, which is not there"),
        ('a ::= "x"', "there is no rule `root`"),
        ('root ::= "a"\nroot ::= "b"', "`root` is there twice"),
        ('root ::= "x', "line 1, before '\"x'"),
        ('a ::= "a"\nroot ::= "x" | )', "a rule, such as `root ::= ...`, is due (line 2"),
        ('root ::= "a" root', "the rule `root` never ends"),
        ('root ::= "a" | b\nb ::= b+', "the rule `b` never ends"),
        ("root ::= (", "a closing parenthesis is due"),
        ("root ::= " + "(" * 100, "more than 64 parentheses"),
        ("root ::= []", "the set is empty"),
        ("root ::= [z-a]", "the wrong way round"),
        ('root ::= "a"{3,2}', "times must rise"),
        ('root ::= "a"{1,99999}', "times must rise, up to 10000"),
        ('root ::= "a"' + "*" * 5000, "a text, a set, a name or a parenthesis is due"),
        ('root ::= * "a"', "a text, a set, a name or a parenthesis is due"),
        (r'root ::= "\q"', r"the escape \q is not known"),
        (r'root ::= "\ud800"', "is no character"),
        ('root ::= "a" ;', "this cannot be read (line 1, before ';')"),
    ],
)
def test_what_is_wrong_is_told(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        lark_of_gbnf(text)


def test_the_two_notations_are_told_apart() -> None:
    assert is_gbnf('# a remark\nroot ::= "a"')
    assert not is_gbnf('start: "::="')
    assert not is_gbnf('start: a\na: "x ::= y"')


def test_a_grammar_without_recursion_is_one_terminal_and_others_are_rules() -> None:
    assert lark_of_gbnf('root ::= "ab" c\nc ::= [a-c]') == 'start: T0\nT0: "ab" T1\nT1: /[a-c]/\n'
    assert lark_of_gbnf('root ::= "ab" root | ') == 'start: r0\nr0: "a" "b" r0 | ""\n'
