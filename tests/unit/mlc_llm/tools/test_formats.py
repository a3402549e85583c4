"""Which template has which format."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlc_llm.errors import BadConfig
from mlc_llm.tools.formats import (
    THINK,
    THOUGHT_FORMATS,
    TOOL_FORMATS,
    detect_thoughts,
    detect_tools,
    has_place_for_tools,
    thoughts_by_name,
    tools_by_name,
)
from support.shared import shared_path

TEMPLATES = [
    ("HuggingFaceTB-SmolLM3-3B", "hermes", False, "think"),
    ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "hermes", True, None),
    ("Qwen-Qwen2.5-7B-Instruct", "hermes", True, None),
    ("Qwen-Qwen3-0.6B", "hermes", True, "think"),
    ("google-gemma-2-2b-it", "hermes", False, None),
    ("meta-llama-Llama-3.1-8B-Instruct", "llama3_json", True, None),
    ("microsoft-Phi-3.5-mini-instruct", "hermes", False, None),
    ("mistralai-Mistral-Nemo-Instruct-2407", "mistral", True, None),
]


@pytest.mark.parametrize(("name", "form", "place", "thoughts"), TEMPLATES)
def test_templates_that_people_have_are_recognised(name, form, place, thoughts):
    template = shared_path(f"data/chat_templates/dev/{name}.jinja").read_text()
    assert detect_tools(template).name == form
    assert has_place_for_tools(template) == place
    found = detect_thoughts(template)
    assert (found and found.name) == thoughts


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (None, "hermes"),
        ("{{ messages[0].content }}", "hermes"),
        ("{% if tools %}<tool_call>\n<function=f>\n<parameter=p>", "qwen3_coder"),
        ("{% if tools %}{{ '[TOOL_CALLS]' + name + '[ARGS]' }}", "mistral_args"),
        ("{% if tools %}[func_name1(params_name1=params_value1), func_name2(params)]", "pythonic"),
        ("'<|tool|>' + message['tools'] + '<|/tool|>'", "phi4_mini"),
        (
            "<｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + '\\n' + '```json'",
            "deepseek_v3",
        ),
        ("<｜tool▁call▁begin｜>' + name + '<｜tool▁sep｜>' + arguments", "deepseek_v31"),
        ("{% if tools %}```tool_code", "gemma"),
        ('\'<|python_start|>\' {"name": "\' + name \'"parameters": dictionary of', "llama3_json"),
    ],
)
def test_a_template_is_recognised_by_what_it_teaches(template, form):
    assert detect_tools(template).name == form


def test_a_template_has_a_place_for_tools_when_it_reads_the_variable():
    assert has_place_for_tools("{%- if tools is not none %}")
    assert has_place_for_tools("{% for tool in tools %}")
    assert not has_place_for_tools("{% if message['tools'] %}{{ message.tools }}<tools>")
    assert not has_place_for_tools(None)


def test_formats_are_found_by_name_and_other_names_are_answered_with_the_list():
    assert all(tools_by_name(name) is form for name, form in TOOL_FORMATS.items())
    with pytest.raises(BadConfig, match=r"hermes.*mistral"):
        tools_by_name("xml")
    assert thoughts_by_name("think") == THINK
    assert thoughts_by_name("none") is None
    with pytest.raises(BadConfig, match=r"think.*none"):
        thoughts_by_name("deep")


def test_every_format_has_its_row_in_the_documentation():
    text = (Path(__file__).resolve().parents[4] / "docs/tools.md").read_text()
    assert all(f"\n| `{name}` |" in text for name in [*TOOL_FORMATS, *THOUGHT_FORMATS])
