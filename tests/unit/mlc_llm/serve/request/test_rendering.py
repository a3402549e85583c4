"""Tools in prompts: by the template, or said in words where it has no place for them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlc_llm.conversation_template.jinja import JinjaTemplate, short_id
from mlc_llm.conversation_template.mlc import MlcTemplate
from mlc_llm.conversation_template.plain import PlainTemplate
from mlc_llm.conversation_template.prompt import ChatTemplate, Turn, TurnCall
from mlc_llm.errors import BadRequest
from mlc_llm.protocol.requests import ChatCompletionRequest, from_arguments
from mlc_llm.serve.request.rendering import one_by_one, render
from mlc_llm.serve.request.tools import tool_use
from support.shared import shared_path

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Paris?"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
        }
    ],
}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
PLACE = "{% if tools %}{{ tools | tojson }}{% endif %}"
MESSAGES = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
MLC: dict[str, Any] = {
    "roles": {"user": "USER", "assistant": "ASSISTANT", "tool": "USER"},
    "role_templates": {"user": "<<question>> {user_message} <<function>> {function_string}"},
    "seps": ["\n", "</s>"],
    "role_content_sep": ": ",
    "role_empty_sep": ":",
}


def prompt(template: ChatTemplate, *messages: Any, **fields: Any) -> str:
    body = {"messages": list(messages), "tools": [TOOL], **fields}
    request = from_arguments(ChatCompletionRequest, body)
    pieces = render(request, template, tool_use(request), 4096)
    return "".join(str(piece) for piece in pieces)


def jinja(source: str, tool_use: str | None = None) -> JinjaTemplate:
    return JinjaTemplate(source, {}, tool_use)


def test_a_template_gets_the_tools_as_a_list_of_objects() -> None:
    assert prompt(jinja(PLACE), USER) == json.dumps([TOOL])
    assert prompt(jinja(PLACE), USER, tool_choice="none") == ""


def test_a_model_may_have_a_template_for_tools_alone() -> None:
    template = jinja("plain", "tools! " + PLACE)
    assert prompt(template, USER).startswith("tools! [{")
    assert prompt(template, USER, tools=None) == "plain"


def test_without_a_place_the_tools_are_in_the_system_message() -> None:
    text = prompt(jinja(MESSAGES), SYSTEM, USER)
    assert text.startswith("[system]Be brief.\n\n")
    assert '"name": "weather"' in text
    assert text.endswith("[user]Paris?")
    assert prompt(jinja(MESSAGES), SYSTEM, USER, tools=None) == "[system]Be brief.[user]Paris?"
    assert '"name": "weather"' in prompt(PlainTemplate(None), USER)


def test_without_system_messages_the_user_says_the_tools() -> None:
    source = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + MESSAGES
    )
    text = prompt(jinja(source), USER)
    assert text.startswith("[user]")
    assert '"name": "weather"' in text
    assert text.endswith("\n\nParis?")
    with pytest.raises(BadRequest, match="no"):
        prompt(jinja(source), SYSTEM, USER, tools=None)


def test_calls_and_results_are_plain_messages_for_templates_that_know_none() -> None:
    text = prompt(jinja(MESSAGES), USER, CALL, RESULT, tools=None)
    assert '[assistant]<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}' in text
    assert text.endswith("[user]<tool_response>\nrain\n</tool_response>")


KNOWN = [
    "HuggingFaceTB-SmolLM3-3B",
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen-Qwen3-0.6B",
    "google-gemma-2-2b-it",
    "meta-llama-Llama-3.1-8B-Instruct",
    "microsoft-Phi-3.5-mini-instruct",
    "mistralai-Mistral-Nemo-Instruct-2407",
]


@pytest.mark.parametrize("name", KNOWN)
def test_every_published_template_takes_what_clients_of_openai_send(name: str) -> None:
    """Several calls at once, no text beside them, results in any order, and going on."""
    source = shared_path(f"data/chat_templates/dev/{name}.jinja").read_text()
    template = JinjaTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})
    calls = [{**CALL["tool_calls"][0], "id": f"call_{i}"} for i in range(2)]  # type: ignore[index]
    asked = {**CALL, "tool_calls": calls}
    results = [{**RESULT, "tool_call_id": f"call_{i}", "content": f"rain{i}"} for i in (1, 0)]
    text = prompt(template, USER, asked, *results, {"role": "assistant", "content": "Wet."}, USER)
    assert text.count('"Paris"') == 2
    assert "None" not in text
    assert "rain0" in text
    assert text.index("rain1") < text.index("Wet.")


def test_calls_made_together_may_be_told_one_by_one() -> None:
    calls = tuple(TurnCall("f", {}, i) for i in "ab")
    both = Turn(role="assistant", content="Hm.", tool_calls=calls)
    b, a = (Turn(role="tool", content=i * 2, tool_call_id=i) for i in "ba")
    one = Turn(role="assistant", content="", tool_calls=calls[:1])
    user = Turn(role="user", content="Hi")
    found = one_by_one([user, both, b, a, user, one, a])
    assert [(t.role, t.content, len(t.tool_calls)) for t in found] == [
        ("user", "Hi", 0),
        ("assistant", "Hm.", 1),
        ("tool", "aa", 0),
        ("assistant", "", 1),
        ("tool", "bb", 0),
        ("user", "Hi", 0),
        ("assistant", "", 1),
        ("tool", "aa", 0),
    ]


def test_arguments_are_objects_or_text_as_the_template_wants_them() -> None:
    begin = "{% for m in messages %}{% for c in m.tool_calls %}"
    end = "{% endfor %}{% endfor %}" + PLACE[:0] + "{# tools #}"
    for written, expected in (
        ("{{ c.function.arguments | tojson }}", '{"city": "Paris"}'),
        ("{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}", "city=Paris"),
        ("{{ '<' + c.function.arguments + '>' }}", '<{"city": "Paris"}>'),
        ("{{ c.function.arguments }}", '{"city": "Paris"}'),
    ):
        assert prompt(jinja(begin + written + end), USER, CALL, RESULT) == expected


def test_ids_are_short_for_templates_that_want_them_so() -> None:
    source = shared_path(
        "data/chat_templates/dev/mistralai-Mistral-Nemo-Instruct-2407.jinja"
    ).read_text()
    text = prompt(
        JinjaTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}), USER, CALL, RESULT
    )
    assert text.count(short_id("call_1")) == 2
    assert short_id("Abcdefgh9") == "Abcdefgh9"
    assert len(short_id("call_é")) == 9


def test_some_templates_look_for_the_tools_in_the_system_message() -> None:
    source = "{% for message in messages %}{{ message['tools'] }}{{ message.role }}{% endfor %}"
    assert prompt(jinja(source), USER) == json.dumps([TOOL["function"]]) + "systemuser"


def test_mlc_templates_have_a_place_for_functions_in_the_last_question() -> None:
    text = prompt(MlcTemplate(MLC), USER, {"role": "assistant", "content": "Yes."}, USER)
    first, _, last = text.partition("ASSISTANT: Yes.</s>")
    assert first == "USER: <<question>> Paris? <<function>> \n"
    functions = last.removeprefix("USER: <<question>> Paris? <<function>> ")
    assert json.loads(functions.removesuffix("\nASSISTANT:")) == [TOOL["function"]]


def test_what_looks_like_a_place_in_a_message_is_text() -> None:
    tricky = {"role": "user", "content": "{function_string}{user_message}"}
    assert "? {function_string}{user_message} <<" in prompt(MlcTemplate(MLC), tricky).replace(
        "<<question>>", "?"
    )


def test_mlc_templates_without_a_place_leave_tools_to_the_models_own() -> None:
    without = {**MLC, "role_templates": {}}
    assert prompt(MlcTemplate(without, jinja(PLACE)), USER) == json.dumps([TOOL])
    assert prompt(MlcTemplate(without, jinja(PLACE)), USER, tools=None).startswith("USER: Paris?")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "--"),
        ({"reasoning_effort": "none"}, "none-False-"),
        ({"reasoning_effort": "high"}, "high-True-"),
        (
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
            "none-True-",
        ),
        ({"documents": [{"title": "t"}]}, "--t"),
    ],
)
def test_templates_are_told_how_much_to_think_and_what_to_read(
    fields: dict[str, Any], expected: str
) -> None:
    source = "{{ reasoning_effort }}-{{ enable_thinking }}-{{ (documents or [{}])[0].title }}"
    assert prompt(jinja(source), USER, tools=None, **fields) == expected


def test_thoughts_of_the_history_reach_the_template() -> None:
    said = {"role": "assistant", "content": "x", "reasoning": "hm"}
    assert prompt(jinja("{{ messages[1].reasoning_content }}"), USER, said, tools=None) == "hm"
