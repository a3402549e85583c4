"""MLC LLM's conversation templates, and the one for models without any."""

from __future__ import annotations

from typing import Any

import pytest

from mlc_llm.conversation_template.mlc import MlcTemplate
from mlc_llm.conversation_template.plain import PlainTemplate
from mlc_llm.conversation_template.prompt import RenderOptions, Turn
from mlc_llm.errors import BadModel, BadRequest

LLAMA3: dict[str, Any] = {
    "name": "llama-3",
    "system_template": "<|start_header_id|>system<|end_header_id|>\n\n{system_message}<|eot_id|>",
    "system_message": "Default.",
    "system_prefix_token_ids": [128000],
    "add_role_after_system_message": True,
    "roles": {
        "user": "<|start_header_id|>user",
        "assistant": "<|start_header_id|>assistant",
    },
    "role_templates": {"user": "{user_message}", "assistant": "{assistant_message}"},
    "messages": [],
    "seps": ["<|eot_id|>"],
    "role_content_sep": "<|end_header_id|>\n\n",
    "role_empty_sep": "<|end_header_id|>\n\n",
    "stop_str": ["<|eot_id|>"],
    "stop_token_ids": [128001, 128009],
    "function_string": "",
    "use_function_calling": False,
}
LLAMA2: dict[str, Any] = {
    "name": "llama-2",
    "system_template": "[INST] <<SYS>>\n{system_message}\n<</SYS>>\n\n",
    "system_message": "",
    "system_prefix_token_ids": [1],
    "add_role_after_system_message": False,
    "roles": {"user": "<s>[INST]", "assistant": "[/INST]", "tool": "[INST]"},
    "seps": [" ", " </s>"],
    "role_content_sep": " ",
    "role_empty_sep": " ",
    "stop_str": ["[INST]"],
    "stop_token_ids": [2],
}
SYSTEM = Turn(role="system", content="S")
HI = Turn(role="user", content="Hi")
YO = Turn(role="assistant", content="Yo")


def head(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def test_a_system_message_replaces_the_default_and_texts_are_one_piece() -> None:
    assert MlcTemplate(LLAMA3).render([SYSTEM, HI]) == [
        128000,
        f"{head('system')}S<|eot_id|>{head('user')}Hi<|eot_id|>{head('assistant')}",
    ]


def test_without_a_system_message_the_default_is_used() -> None:
    prompt = MlcTemplate(LLAMA3).render([HI])[1]
    assert isinstance(prompt, str)
    assert prompt.startswith(f"{head('system')}Default.<|eot_id|>")


def test_the_first_role_may_be_part_of_the_system_text() -> None:
    assert MlcTemplate(LLAMA2).render([SYSTEM, HI, YO, HI]) == [
        1,
        "[INST] <<SYS>>\nS\n<</SYS>>\n\nHi [/INST] Yo </s><s>[INST] Hi [/INST] ",
    ]


def test_an_empty_system_text_that_still_has_a_frame_is_kept() -> None:
    assert MlcTemplate(LLAMA2).render([HI])[1] == "[INST] <<SYS>>\n\n<</SYS>>\n\nHi [/INST] "


def test_a_role_template_wraps_the_message_and_never_reads_it() -> None:
    rules = {**LLAMA2, "system_template": "", "role_templates": {"user": "<q>{user_message}</q>"}}
    asked = Turn(role="user", content="{user_message} {function_string}")
    assert MlcTemplate(rules).render([asked]) == [
        1,
        "<s>[INST] <q>{user_message} {function_string}</q> [/INST] ",
    ]


def test_thoughts_before_the_last_question_are_dropped_where_the_template_says_so() -> None:
    rules = {**LLAMA2, "strip_reasoning_in_history": True}
    thought = Turn(role="assistant", content="<think>a</think>\n\nYo")
    prompt = MlcTemplate(rules).render([HI, thought, HI, thought])[1]
    assert isinstance(prompt, str)
    assert prompt.count("[/INST] Yo </s>") == 1
    assert prompt.count("<think>") == 1


def test_stops_come_from_the_template() -> None:
    assert MlcTemplate(LLAMA3).stop_token_ids == (128001, 128009)
    assert MlcTemplate({**LLAMA3, "stop_str": [""]}).stop_strs == ()


@pytest.mark.parametrize(
    "turns", [[Turn(role="tool", content="7")], [HI, SYSTEM]], ids=["tool", "late system"]
)
def test_a_role_the_template_does_not_have_is_a_bad_request(turns: list[Turn]) -> None:
    with pytest.raises(BadRequest, match="conversation template"):
        MlcTemplate(LLAMA3).render(turns)


@pytest.mark.parametrize(
    "change", [{"roles": {}}, {"roles": None}, {"seps": []}, {"stop_token_ids": ["x"]}]
)
def test_a_broken_template_is_a_bad_model(change: dict[str, Any]) -> None:
    with pytest.raises(BadModel, match="conv_template"):
        MlcTemplate({**LLAMA3, **change})


def test_a_model_without_a_template_reads_one_line_per_message() -> None:
    template = PlainTemplate(bos_token_id=1)
    assert template.render([SYSTEM, HI]) == [1, "system: S\nuser: Hi\nassistant:"]
    assert template.stop_strs == ("\nuser:",)


@pytest.mark.parametrize(
    ("options", "end"),
    [
        (RenderOptions(), f"Yo<|eot_id|>{head('assistant')}"),
        (RenderOptions(begin_answer=False), "Yo<|eot_id|>"),
        (RenderOptions(continue_last=True), f"{head('assistant')}Yo"),
    ],
    ids=str,
)
def test_a_prompt_ends_as_it_is_told(options: RenderOptions, end: str) -> None:
    prompt = MlcTemplate(LLAMA3).render([HI, YO], options)[1]
    assert str(prompt).endswith(end)


def test_a_prompt_without_a_template_ends_as_it_is_told() -> None:
    template = PlainTemplate(bos_token_id=None)
    assert template.render([HI, YO], RenderOptions(begin_answer=False)) == [
        "user: Hi\nassistant: Yo\n"
    ]
    assert template.render([HI, YO], RenderOptions(continue_last=True)) == [
        "user: Hi\nassistant: Yo"
    ]


def test_a_stop_token_that_stands_for_none_is_left_out() -> None:
    assert MlcTemplate({**LLAMA2, "stop_token_ids": [-1, 2]}).stop_token_ids == (2,)
