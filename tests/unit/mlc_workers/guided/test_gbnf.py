"""GBNF through the whole compiler: what a grammar means here is what its rules say."""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc_llm.grammar.gbnf import Node, OneOf, Ref, Repeat, Rules, Set, Text, read_gbnf
from mlc_llm.grammar.gbnf_lark import lark_of_gbnf
from mlc_llm.protocol.generation import Grammar
from mlc_workers.request import GrammarTooComplex
from support.grammar_walks import Walker

WALKER = Walker()
SQL = r"""
root ::= select_statement
select_statement ::= "SELECT " column " from " table " where " condition
column ::= "col_1 " | "col_2 "
table ::= "table_1 " | "table_2 "
condition ::= column "= " number
number ::= "1 " | "2 "
"""
JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""
SUMS = r"""
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"""
CASES = [
    (SQL, ["SELECT col_1  from table_2  where col_1 = 1 "], ["SELECT ", ""]),
    (JSON, ["{}", '{"a": [1,-2.5e3,{"b":null}],\n "c":"x\\n\\u00e9é"}'], ["{", '{"a"}', "[1]"]),
    (SUMS, ["a+1= 3\n", "(a+b)*(3-x)= (1)\n\nb=c\n"], ["a", "a+=b\n", "(a=b\n"]),
    ('root ::= "a" root "a" | "b"', ["b", "aabaa"], ["ab", "aba b"]),
    ('root ::= root "," [a-z] | [a-z]', ["a", "a,b,c"], ["", ",a", "a,"]),
    ('root ::= ("if" | [a-z])+ "!" root?', ["if!", "ifx!xif!", "i!"], ["!", "if"]),
    ('root ::= [/\\]^-]+ "é" . | "\\n"', ["/]^-é\n", "\n"], ["a", "/é"]),
]


@pytest.mark.parametrize(("text", "good", "bad"), CASES)
def test_grammars_that_people_write_mean_what_they_say(
    text: str, good: list[str], bad: list[str]
) -> None:
    compiled = WALKER.compiler.compile(Grammar("lark", lark_of_gbnf(text), "grammar"))
    assert [one for one in good if not WALKER.accepts(compiled, one)] == []
    assert [one for one in bad if WALKER.accepts(compiled, one)] == []


def ends(node: Node, text: str, at: int, known: dict[tuple[str, int], set[int]]) -> set[int]:
    """Where something that begins at `at` may end, so far as the rules are `known` to."""
    match node:
        case Text(wanted):
            return {at + len(wanted)} if text.startswith(wanted, at) else set()
        case Set(ranges, negated):
            found = any(low <= ord(c) <= high for c in text[at : at + 1] for low, high in ranges)
            return {at + 1} if at < len(text) and found != negated else set()
        case Ref(name):
            return known.get((name, at), set())
        case Repeat(item, least, most):
            reached, now = ({at} if least == 0 else set()), {at}
            for count in range(1, (least + len(text) + 2 if most is None else most) + 1):
                now = {end for begin in now for end in ends(item, text, begin, known)}
                reached |= now if count >= least else set()
            return reached
        case OneOf(options):
            return {end for option in options for end in sequence(option, text, at, known)}


def sequence(
    items: tuple[Node, ...], text: str, at: int, known: dict[tuple[str, int], set[int]]
) -> set[int]:
    now = {at}
    for item in items:
        now = {end for begin in now for end in ends(item, text, begin, known)}
    return now


def matches(rules: Rules, text: str) -> bool:
    """By asking every rule everywhere until nothing new is found."""
    known: dict[tuple[str, int], set[int]] = {}
    while True:
        found = {
            (name, at): ends(rule, text, at, known)
            for name, rule in rules.items()
            for at in range(len(text) + 1)
        }
        if found == known:
            return len(text) in known["root", 0]
        known = found


atoms = st.sampled_from(['"a"', '"b"', '"ab"', '""', "[ab]", "[^b]", "root", "x"])
items = st.builds(lambda one, times: one + times, atoms, st.sampled_from(["", "", "*", "?", "{2}"]))
ENDS = '"b"'
"""An option of every rule, so that each ends."""
bodies = st.lists(st.lists(items, max_size=3).map(" ".join), min_size=1, max_size=3).map(" | ".join)
TEXTS = [""] + ["".join(t) for n in (1, 2, 3) for t in itertools.product("ab", repeat=n)]


@settings(max_examples=25, deadline=None)
@given(bodies, bodies)
def test_random_grammars_let_through_what_their_rules_match(root: str, x: str) -> None:
    text = f"root ::= {root} | {ENDS}\nx ::= {x} | {ENDS}"
    with suppress(GrammarTooComplex):  # with too many ways to read a text
        rules = read_gbnf(text)
        expected = [one for one in TEXTS if matches(rules, one)]
        compiled = WALKER.compiler.compile(Grammar("lark", lark_of_gbnf(text), "grammar"))
        assert [one for one in TEXTS if WALKER.accepts(compiled, one)] == expected
