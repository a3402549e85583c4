"""Texts as models of each family write them, and what they say."""

from __future__ import annotations

import pytest

from mlc_llm.tools.call_reader import CallReader
from mlc_llm.tools.events import CallArguments, CallBegins, CallBreaks, CallEnds, Content
from mlc_llm.tools.formats import open_reader, tools_by_name
from mlc_llm.tools.tool import Tool
from mlc_llm.tools.whole import WholeCalls
from support.tool_texts import TOOLS, calls_of, read, text_of

ROME = ("get_weather", {"city": "Rome"})
OSLO = ("get_weather", {"city": "Oslo", "days": 2})
NOW = ("now", {})
DEEPSEEK = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
    '{"city": "Rome"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n'
    "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
DEEPSEEK_31 = (
    '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Rome"}'
    "<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
    "<｜tool▁calls▁end｜>"
)
XML = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n2"
    "\n</parameter>\n</function>\n</tool_call>"
)

EXAMPLES = [
    ("hermes", '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', [NOW]),
    ("hermes", '<tool_call>{"arguments": {"city": "Rome"}, "name": "get_weather"}', [ROME]),
    ("hermes", '<tool_call>{"name": "now"}</tool_call>', [NOW]),
    ("hermes", '<tool_call>{"name": "now", "arguments": null}</tool_call>', [NOW]),
    (
        "hermes",
        '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Rome\\"}"}</tool_call>',
        [ROME],
    ),
    (
        "hermes",
        'A.\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n<tool_call>\n'
        '{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>',
        [NOW, ROME],
    ),
    ("llama3_json", '{"name": "get_weather", "parameters": {"city": "Rome"}}', [ROME]),
    ("llama3_json", '<|python_tag|>{"name": "now", "parameters": {}}', [NOW]),
    (
        "llama3_json",
        '<|python_tag|>{"type": "function", "name": "get_weather", "parameters": {"city": "Rome"}};'
        ' {"name": "now", "parameters": {}}',
        [ROME, NOW],
    ),
    ("llama3_json", 'Sure.\n  {"name": "now", "parameters": {}}', [NOW]),
    ("llama3_json", '<function=get_weather>{"city": "Rome"}</function>', [ROME]),
    ("pythonic", "[get_weather(city='Rome'), now()]", [ROME, NOW]),
    ("pythonic", '<|python_start|>[get_weather(city="Rome")]<|python_end|>', [ROME]),
    ("gorilla", 'get_weather(city="Oslo", days=2)', [OSLO]),
    ("gorilla", "[\"get_weather(city='Rome')\", 'now()']", [ROME, NOW]),
    ("gorilla", '<<function>>get_weather(city="Rome")', [ROME]),
    (
        "mistral",
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Rome"}, "id": "VvvODy9mT"}, '
        '{"name": "now", "arguments": {}}]',
        [ROME, NOW],
    ),
    ("mistral", '[TOOL_CALLS] [{"name": "now", "arguments": {}}]', [NOW]),
    (
        "mistral",
        '[TOOL_CALLS]get_weather[ARGS]{"city": "Rome"}[TOOL_CALLS]now[ARGS]{}',
        [ROME, NOW],
    ),
    ("mistral_args", '[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{"city": "Rome"}', [ROME]),
    ("mistral_args", 'Hm.[TOOL_CALLS]get_weather{"city": "Rome"}', [ROME]),
    (
        "phi4_mini",
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Rome"}}]<|/tool_call|>',
        [ROME],
    ),
    ("phi4_mini", 'functools[{"name": "now", "arguments": {}}]', [NOW]),
    ("gemma", '```tool_code\nget_weather(city="Rome")\n```', [ROME]),
    ("gemma", "```tool_code\nprint(get_weather(city='Rome'))\nnow()\n```", [ROME, NOW]),
    ("gemma", "Ok.\n```tool_code\n[now()]\n```", [NOW]),
    ("gemma", '```json\n{"name": "get_weather", "parameters": {"city": "Rome"}}\n```', [ROME]),
    ("deepseek_v3", DEEPSEEK, [ROME, NOW]),
    ("deepseek_v3", DEEPSEEK_31, [ROME, NOW]),
    ("deepseek_v31", DEEPSEEK_31, [ROME, NOW]),
    ("qwen3_coder", XML, [OSLO]),
    ("qwen3_coder", "<tool_call>\n<function=now>\n</function>\n</tool_call>", [NOW]),
    ("qwen3_coder", XML.removeprefix("<tool_call>\n"), [OSLO]),
]


@pytest.mark.parametrize(("name", "text", "calls"), EXAMPLES)
def test_calls_are_read_from(name, text, calls):
    form = tools_by_name(name)
    events = read(open_reader(TOOLS, form), list(text))
    assert calls_of(events) == calls
    assert text_of(events) in ("", "A.", "Sure.", "Hm.", "Ok.")
    assert read(open_reader(TOOLS, form), [text]) == events


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", "<tool_call> is a tag. </tool_call>"),
        ("hermes", '<tool_call>{"name": "rm", "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>'),
        ("hermes", '<tool_call>{"name": 7, "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
        ("llama3_json", '{"answer": 42, "name": "now"}'),
        ("llama3_json", '{"name": "Bob", "parameters": {}}'),
        ("llama3_json", 'Use {"name": "now", "parameters": {}} here.'),
        ("pythonic", "[1, 2, now]"),
        ("pythonic", "[now(1)]"),
        ("gorilla", "now is the time (of day)"),
        ("gorilla", "['f(a=1)', 'now()']"),
        ("gorilla", "f(x=1)"),
        ("mistral", "[TOOL_CALLS][]"),
        ("mistral", "[TOOL_CALLS]launch[ARGS]{}"),
        ("gemma", "```tool_code\nimport os\n```"),
        ("gemma", '```json\n{"a": 1}\n```'),
        ("deepseek_v3", "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>"),
        ("qwen3_coder", "<tool_call>\n<function=rm>\n</function>\n</tool_call>"),
    ],
)
def test_what_is_no_call_stays_text(name, text):
    form = tools_by_name(name)
    assert read(open_reader(TOOLS, form), list(text)) == [Content(text)]
    assert read(open_reader(TOOLS, form), [text]) == [Content(text)]


@pytest.mark.parametrize(
    "rest", ['{"city": "Ro', '{"city": Rome}}', '{"city": "a\nb"}}', '{"city": "a", }}']
)
def test_a_call_that_breaks_off_in_its_arguments_is_taken_back_whole(rest):
    text = f'Hm.\n<tool_call>\n{{"name": "get_weather", "arguments": {rest}'
    events = read(open_reader(TOOLS, tools_by_name("hermes")), list(text))
    assert events[:2] == [Content("Hm."), CallBegins("get_weather")]
    assert isinstance(events[2], CallArguments)
    assert isinstance(events[3], CallBreaks)
    assert text_of(events) == text
    whole = WholeCalls(open_reader(TOOLS, tools_by_name("hermes")))
    assert read(whole, list(text)) == [Content(text)]


def test_a_good_call_after_a_broken_one_is_read():
    text = '<tool_call>{"name": oops <tool_call>{"name": "now", "arguments": {}}</tool_call>'
    events = read(open_reader(TOOLS, tools_by_name("hermes")), list(text))
    assert calls_of(events) == [NOW]
    assert text_of(events) == '<tool_call>{"name": oops'


def test_arguments_of_json_are_passed_on_as_they_were_written():
    given = '{ "city" :"R\\u006fme",\n "days": 1e0}'
    text = f'<tool_call>{{"name": "get_weather", "arguments": {given} }}</tool_call>'
    events = read(open_reader(TOOLS, tools_by_name("hermes")), list(text))
    assert events == [CallBegins("get_weather"), CallArguments(given), CallEnds()]


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("'it\\'s'", "it's"),
        ('"a\\n\\x41\\u00e9\\U0001F600\\ud83d\\ude00\\d"', "a\nAé😀😀\\d"),
        ("'''two\nlines \"here\" 'too' '''", "two\nlines \"here\" 'too' "),
        ("'one ' 'two'", "one two"),
        ("''", ""),
        ("[1, -2.5, +3, 1_000, 0x1F, .5, 1e3, ]", [1, -2.5, 3, 1000, 31, 0.5, 1000.0]),
        ("(1, 2)", [1, 2]),
        ("(1)", 1),
        ("()", []),
        ("{'a': True, \"b\": {'c': None}, 'd': false,}", {"a": True, "b": {"c": None}, "d": False}),
    ],
)
def test_literals_of_python_become_json(literal, value):
    tools = [Tool("f")]
    text = f"f(a={literal}, b=1)"
    for parts in ([text], list(text)):
        events = read(open_reader(tools, tools_by_name("gorilla")), parts)
        assert calls_of(events) == [("f", {"a": value, "b": 1})]


@pytest.mark.parametrize(
    "literal",
    [
        "x",
        "open('/etc')",
        "1 + 1",
        "{1}",
        "{1: 2}",
        "nan",
        "-inf",
        "f'{a}'",
        "'a\nb'",
        "'\\u12'",
        "--1",
        "[" * 70 + "]" * 70,
        "",
        "lambda: 1",
        "1" * 500 + "_0",
    ],
)
def test_other_expressions_of_python_are_no_call(literal):
    text = f"f(a={literal})"
    events = read(WholeCalls(open_reader([Tool("f")], tools_by_name("gorilla"))), list(text))
    assert events == [Content(text)]


def test_xml_parameters_are_strings_or_json_as_the_schema_says():
    tool = Tool(
        "f",
        {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "number": {"type": "integer"},
                "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "flag": {"type": "boolean"},
            },
        },
    )
    given = [
        ("text", "12", "12"),
        ("number", "12", 12),
        ("maybe", "null", None),
        ("flag", "True", True),
        ("other", '{"a": [1]}', {"a": [1]}),
        ("more", "a < b\n</x>\n", "a < b\n</x>"),
    ]
    body = "".join(f"<parameter={key}>\n{text}\n</parameter>\n" for key, text, _ in given)
    text = f"<tool_call>\n<function=f>\n{body}</function>\n</tool_call>"
    events = read(open_reader([tool], tools_by_name("qwen3_coder")), list(text))
    assert calls_of(events) == [("f", {key: value for key, _, value in given})]


@pytest.mark.parametrize("size", [80, 100, 120])
def test_a_call_that_is_too_long_is_text_wherever_it_was_cut(size):
    start = '<tool_call>{"name": "get_weather", "arguments": {"city": "'
    text = start + "x" * 300
    for parts in ([text], list(text), [start, "x" * 300]):
        reader = CallReader(tools_by_name("hermes").reader, TOOLS, max_taken=size)
        events = read(reader, parts)
        assert events[-2:] == [CallBreaks(text[:size]), Content(text[size:])]


@pytest.mark.parametrize(("name", "text", "calls"), EXAMPLES[::3])
def test_where_a_call_becomes_too_long_does_not_depend_on_how_it_was_cut(name, text, calls):
    form = tools_by_name(name).reader
    for size in range(1, len(text), 5):
        whole = read(CallReader(form, TOOLS, max_taken=size), [text])
        assert read(CallReader(form, TOOLS, max_taken=size), list(text)) == whole
        assert len(calls_of(whole)) <= len(calls)


@pytest.mark.parametrize("depth", [64, 65])
def test_arguments_may_be_nested_as_deep_as_grammars_are(depth):
    given = '{"a":' * depth + "1" + "}" * depth
    text = f'<tool_call>{{"name": "now", "arguments": {given}}}</tool_call>'
    events = read(WholeCalls(open_reader(TOOLS, tools_by_name("hermes"))), [text])
    assert len(calls_of(events)) == (1 if depth == 64 else 0)
