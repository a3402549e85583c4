"""Thoughts told apart from the answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_llm.tools.events import CallArguments, CallBegins, CallEnds, Content, Thought
from mlc_llm.tools.formats import HERMES, THINK, open_reader
from support.tool_texts import TOOLS, calls_of, pieces, read

CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
TOLD = [CallBegins("now"), CallArguments("{}"), CallEnds()]


@pytest.mark.parametrize(
    ("text", "inside", "events"),
    [
        ("<think>\nWhy?\n</think>\n\nHi", False, [Thought("Why?"), Content("Hi")]),
        ("Why?\n</think>\n\nHi", True, [Thought("Why?"), Content("Hi")]),
        ("<think>Why?</think>Hi", True, [Thought("Why?"), Content("Hi")]),
        ("<think>\n\n</think>\n\nHi", False, [Content("Hi")]),
        ("Hi <think>no</think>", False, [Content("Hi <think>no</think>")]),
        ("Why? \n", True, [Thought("Why? \n")]),
        ("<think>Why </thi", False, [Thought("Why </thi")]),
        ("Hi</think>there", False, [Content("Hi</think>there")]),
        ("\n <thin", False, [Content("\n <thin")]),
        ("a</think>b</think>c", True, [Thought("a"), Content("b</think>c")]),
        ("", True, []),
    ],
)
def test_thoughts_are_what_stands_between_the_marks_at_the_beginning(text, inside, events):
    assert read(open_reader(thoughts=THINK, inside_thought=inside), [text]) == events
    assert read(open_reader(thoughts=THINK, inside_thought=inside), list(text)) == events


def test_calls_in_thoughts_are_thoughts():
    reader = open_reader(TOOLS, HERMES, THINK, inside_thought=True)
    events = read(reader, list(f"Maybe {CALL}?\n</think>\n{CALL}"))
    assert events == [Thought(f"Maybe {CALL}?"), *TOLD]


@given(
    text=st.lists(
        st.sampled_from(["<think>", "</think>", "<th", "ink>", "\n", " ", "x", CALL, "</think"])
        | st.text(max_size=3),
        max_size=12,
    ).map("".join),
    inside=st.booleans(),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_any_chunking_gives_the_same_events(text, inside, cuts):
    whole = read(open_reader(TOOLS, HERMES, THINK, inside), [text])
    assert read(open_reader(TOOLS, HERMES, THINK, inside), pieces(text, cuts)) == whole
    assert read(open_reader(TOOLS, HERMES, THINK, inside), list(text)) == whole
    calls_of(whole)


def test_a_prompt_that_opens_a_thought_is_recognised():
    assert THINK.opened_by("<|im_start|>assistant\n<think>\n")
    assert not THINK.opened_by("<|im_start|>assistant\n<think>\n\n</think>\n\n")
