"""What holds for every format in which models write calls."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc_llm.tools.events import CallBegins, Content
from mlc_llm.tools.formats import TOOL_FORMATS, ToolFormat, open_reader
from mlc_llm.tools.shape import write_calls
from mlc_llm.tools.whole import WholeCalls
from support.tool_texts import CALLS, TOOLS, calls_of, pieces, read, text_of

FORMATS = pytest.mark.parametrize("form", TOOL_FORMATS.values(), ids=list(TOOL_FORMATS))
CUTS = st.lists(st.integers(0, 10_000), max_size=12)


def fragments(form: ToolFormat) -> st.SearchStrategy[str]:
    """Texts of bits and pieces of the format: most are malformed, some nearly right."""
    shape = form.shape
    bits = [
        *form.reader.markers,
        *(part for part in (shape.before, shape.middle, shape.after, shape.first, shape.last)),
        *("get_weather", "now", "f", '{"city": "Rome"}', "{", "}", "[", "]", "(", ")", '"', "'"),
        *("\n", " ", ",", ";", ":", "=", "a=1", "**", "null", "\\", "\\u00e", "```", "x\n  "),
        write_calls(shape, [("now", "{}")]),
        write_calls(shape, [("get_weather", '{"city": "Rome", "days": [1, 2.5e3]}')]),
    ]
    cut = st.sampled_from([bit for bit in bits if bit]).flatmap(
        lambda bit: st.integers(1, len(bit)).map(lambda size: bit[:size])
    )
    return st.lists(st.sampled_from(bits) | cut | st.text(max_size=4), max_size=10).map("".join)


@FORMATS
@settings(max_examples=30)
@given(calls=CALLS, before=st.sampled_from(["", "Let me see.\n\n"]), cuts=CUTS)
def test_calls_are_read_back_equal_however_they_are_cut(form, calls, before, cuts):
    if before and not form.reader.markers:
        before = ""
    text = before + write_calls(
        form.shape, [(name, json.dumps(arguments)) for name, arguments in calls]
    )
    events = read(open_reader(TOOLS, form), pieces(text, cuts))
    assert calls_of(events) == calls
    assert text_of(events) == before.strip()


@FORMATS
@settings(max_examples=30)
@given(data=st.data(), cuts=CUTS)
def test_any_chunking_of_any_text_gives_the_same_events(form, data, cuts):
    text = data.draw(fragments(form))
    whole = read(open_reader(TOOLS, form), [text])
    assert read(open_reader(TOOLS, form), pieces(text, cuts)) == whole
    assert read(open_reader(TOOLS, form), list(text)) == whole
    calls_of(whole)


@FORMATS
@settings(max_examples=30)
@given(data=st.data())
def test_text_without_a_call_is_given_exactly_as_it_was_written(form, data):
    text = data.draw(fragments(form))
    events = read(open_reader(TOOLS, form), [text])
    if not calls_of(events):
        assert text_of(events) == text


@FORMATS
@settings(max_examples=30)
@given(calls=CALLS, size=st.integers(0, 10_000), cuts=CUTS)
def test_a_text_that_is_cut_off_has_whole_calls_and_the_rest_as_content(form, calls, size, cuts):
    text = write_calls(form.shape, [(name, json.dumps(given)) for name, given in calls])
    text = text[: size % (len(text) + 1)]
    events = read(WholeCalls(open_reader(TOOLS, form)), pieces(text, cuts))
    read_calls = calls_of(events)
    assert read_calls == calls[: len(read_calls)]
    if not read_calls:
        assert events == ([Content(text)] if text else [])


@FORMATS
def test_a_call_of_a_tool_that_nobody_offered_is_content(form):
    text = write_calls(form.shape, [("launch", '{"x": 1}')])
    assert read(open_reader(TOOLS, form), list(text)) == [Content(text)]


@FORMATS
def test_more_calls_than_allowed_are_content(form):
    text = write_calls(form.shape, [("now", "{}"), ("now", "{}")])
    events = read(open_reader(TOOLS, form, max_calls=1), [text])
    assert len(calls_of(events)) == 1
    assert "now" in text_of(events)


@FORMATS
def test_arguments_are_told_while_they_are_written(form):
    text = write_calls(form.shape, [("get_weather", '{"city": "Rome", "days": 3}')])
    reader = open_reader(TOOLS, form)
    events = reader.feed(text[: text.index("days")])
    assert CallBegins("get_weather") in events
    assert "Rome" in "".join(getattr(event, "text", "") for event in events)
