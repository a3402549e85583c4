"""Jinja chat templates: what they render, and what they cannot do."""

from __future__ import annotations

import json

import pytest

from mlc_llm.conversation_template.budget import Budget, OutOfBudget
from mlc_llm.conversation_template.jinja import JinjaTemplate
from mlc_llm.conversation_template.prompt import Piece, RenderOptions, Turn, TurnCall
from mlc_llm.errors import BadModel, BadRequest
from support.shared import shared_path

TOKENS = {"bos_token": "<s>", "eos_token": {"content": "</s>", "special": True}}
SYSTEM = Turn(role="system", content="Be brief.")
HI = Turn(role="user", content="Hi {{ 1 }}")
YO = Turn(role="assistant", content="Yo")
BYE = Turn(role="user", content="Bye")


def render(source: str, *turns: Turn) -> list[Piece]:
    return JinjaTemplate(source, TOKENS).render(turns or (SYSTEM, HI))


CHATML = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi {{ 1 }}<|im_end|>\n"
    "<|im_start|>assistant\nYo<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
)
KNOWN = {
    "Qwen-Qwen2.5-7B-Instruct": CHATML,
    "Qwen-Qwen3-0.6B": CHATML,
    "microsoft-Phi-3.5-mini-instruct": (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi {{ 1 }}<|end|>\n<|assistant|>\nYo<|end|>\n"
        "<|user|>\nBye<|end|>\n<|assistant|>\n"
    ),
    "meta-llama-Llama-3.1-8B-Instruct": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi {{ 1 }}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYo<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "mistralai-Mistral-Nemo-Instruct-2407": (
        "<s>[INST]Hi {{ 1 }}[/INST]Yo</s>[INST]Be brief.\n\nBye[/INST]"
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_published_template_renders_the_prompt_its_model_was_trained_on(name: str) -> None:
    source = shared_path(f"data/chat_templates/dev/{name}.jinja").read_text()
    assert render(source, SYSTEM, HI, YO, BYE) == [KNOWN[name]]


def test_a_refusal_of_the_template_is_the_callers_mistake() -> None:
    source = shared_path("data/chat_templates/dev/google-gemma-2-2b-it.jinja").read_text()
    with pytest.raises(BadRequest, match="System role not supported") as caught:
        render(source, SYSTEM, HI)
    assert caught.value.param == "messages"


def test_templates_get_the_extensions_they_are_written_for() -> None:
    source = (
        "{%- for m in messages %}\n"
        "    {%- if loop.index == 2 %}{% break %}{% endif %}\n"
        "    {% generation %}{{ m | tojson }}{% endgeneration %}\n"
        "{%- endfor %}\n"
        "{{ strftime_now('%%') }}{{ eos_token }}{% if add_generation_prompt %}!{% endif %}"
    )
    assert render(source, Turn(role="user", content="<é>"), BYE) == [
        '{"role": "user", "content": "<é>"}%</s>!'
    ]


def test_tool_calls_of_the_history_reach_the_template_as_objects() -> None:
    call = TurnCall("f", {"x": 1}, "call_1")
    source = "{{ messages[0].tool_calls[0].function | tojson }}{{ messages[1].tool_call_id }}"
    text = render(
        source,
        Turn(role="assistant", content=None, tool_calls=(call,)),
        Turn(role="tool", content="7", tool_call_id="call_1"),
    )[0]
    assert isinstance(text, str)
    assert json.loads(text.removesuffix("call_1")) == {"name": "f", "arguments": {"x": 1}}


def test_developer_is_the_system_to_a_template_that_does_not_know_it() -> None:
    developer = Turn(role="developer", content="x")
    assert render("{{ messages[0].role }}", developer) == ["system"]
    assert render("{# developer #}{{ messages[0].role }}", developer) == ["developer"]


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ range(10 ** 9) }}",
        "{{ 'a' * 10 ** 9 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ [1] * 10 ** 9 }}",
        "{% for a in range(999) %}{{ 'x' * 100000 }}{% endfor %}",
        "{% set n = namespace(t='ab') %}{% for a in range(40) %}{% set n.t = n.t ~ n.t %}"
        "{% endfor %}",
        "{% set n = namespace(t='ab') %}{% for a in range(40) %}{% set n.t = n.t + n.t %}"
        "{% endfor %}",
        "{% set n = namespace(t=[1]) %}{% for a in range(40) %}{% set n.t = n.t + n.t %}"
        "{% endfor %}",
        "{% set n = namespace(t=[]) %}{% for a in range(99) %}{% set n.t = n.t + ['b' * 9999999] %}"
        "{% endfor %}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ '{:>{}}'.format(1, 10 ** 9) }}",
        "{% set x = 'x'.ljust(10 ** 9) %}",
        "{% set x = ''.zfill(10 ** 9) %}",
        "{{ 'a\\nb' | indent(10 ** 9) }}",
        "{{ [1] | tojson(indent=10 ** 9) }}",
        "{% set n = namespace(t='ab&') %}{% for a in range(40) %}{% set n.t = ''.join([n.t, n.t"
        "]) %}{% endfor %}",
        "{% set n = namespace(t='ab&') %}{% for a in range(40) %}{% set n.t = [n.t, n.t] | join"
        " %}{% endfor %}",
        "{% set n = namespace(t='ab&') %}{% for a in range(40) %}{% set n.t = n.t.replace('a', "
        "'aa') %}{% endfor %}",
        "{% set n = namespace(t='ab&') %}{% for a in range(40) %}{% set n.t = n.t | replace('a'"
        ", 'aa') %}{% endfor %}",
        "{% set n = namespace(t='ab&') %}{% for a in range(40) %}{% set n.t = '%s%s' % (n.t, n."
        "t) %}{% endfor %}",
        "{% set n = namespace(t='ab&') %}{% for a in range(40) %}{% set n.t = '{0}{0}'.format(n"
        ".t) %}{% endfor %}",
        "{% set n = namespace(t='ab&') %}{% for a in range(40) %}{% set n.t = n.t | tojson ~ n."
        "t %}{% endfor %}",
        "{% set n = namespace(t='ab&') %}{% for a in range(40) %}{% set n.t = [n.t, n.t] %}{% e"
        "ndfor %}",
        "{% set n = namespace(t='ab&') %}{% for a in range(40) %}{% set n.t = {'a': n.t, 'b': n"
        ".t} %}{% endfor %}",
        "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}{% set n = namespace(t='ab&') %}{% for a i"
        "n range(40) %}{% set n.t = m(n.t) %}{% endfor %}",
        "{% set n = namespace(t='ab') %}{% for a in range(40) %}{% set x %}{{ n.t }}{{ n.t }}{%"
        " endset %}{% set n.t = x %}{% endfor %}",
        "{% set n = namespace(t=3) %}{% for a in range(40) %}{% set n.t = n.t * n.t %}{% endfor %}",
        "{{ strftime_now('%Y' * 1000) }}",
        "{% set budget = 0 %}{{ 'x'.translate({120: 'y'}) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "{% include 'x' %}",
        "{{ messages[0].content + None }}",
        "{{ raise_exception('no') }}",
        "{{ nothing.at.all }}",
    ],
)
def test_a_template_that_misbehaves_is_a_bad_request(source: str) -> None:
    with pytest.raises(BadRequest) as caught:
        render(source)
    assert caught.value.param == "messages"


def test_the_operators_that_are_counted_mean_what_they_meant() -> None:
    source = (
        "{{ 1 ~ 'a' ~ none ~ nothing }}|{{ 1 + 2 }}|{{ 'a' + 'b' }}|{{ [1] + [2] }}|{{ 'c' * 2 }}"
    )
    assert render(source) == ["1aNone|3|ab|[1, 2]|cc"]


def test_what_templates_do_with_text_still_works() -> None:
    source = (
        "{{ 'a,b'.split(',') | join('-') }}|{{ ' x '.strip() }}|{{ 'aXa'.replace('X', 'b') }}|"
        "{{ '%s=%05d' % ('n', 7) }}|{{ '{{{}: {:>3}}}'.format('k', 1) }}|"
        "{{ ['b', 'a'] | sort | tojson }}|"
        "{% set n = namespace(t='') %}{% for k, v in {'q': 1}.items() %}{% set n.t = n.t ~ k %}"
        "{% endfor %}{{ n.t }}|{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m('i') }}|{{ 7 % 4 }}|"
        "{{ 'x\\ny' | indent(2) | tojson }}|{{ [1, 2, 3] | select('odd') | list }}|"
        "{{ {'a': [1, (2, 3)]} | tojson }}|{{ 'a' in ['a'] }}"
    )
    assert render(source) == [
        'a-b|x|aba|n=00007|{k:   1}|["a", "b"]|q|<i>|3|"x\\n  y"|[1, 3]|{"a": [1, [2, 3]]}|True'
    ]


def test_a_generator_pays_for_each_of_its_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Budget(max_steps=1000)
    monkeypatch.setattr("mlc_llm.conversation_template.sandbox.Budget", lambda: small)
    with pytest.raises(BadRequest, match="too long"):
        render("{{ range(99999) | select('odd') | map('string') | list }}")


def test_loops_without_output_run_out_of_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Budget(max_steps=1000)
    monkeypatch.setattr("mlc_llm.conversation_template.sandbox.Budget", lambda: small)
    with pytest.raises(BadRequest, match="too long"):
        render("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")


def test_a_budget_ends_at_its_deadline() -> None:
    budget = Budget(max_seconds=-1)
    with pytest.raises(OutOfBudget):
        _ = [budget.tick() for _ in range(256)]


@pytest.mark.parametrize("source", ["{% if %}", "{{", "{% unknown %}", "x" * (1 << 20) + "y"])
def test_what_is_no_template_is_a_bad_model(source: str) -> None:
    with pytest.raises(BadModel, match="chat template"):
        JinjaTemplate(source, TOKENS)


CHATTY = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}{{ mood }}"
)


def test_a_prompt_may_end_without_the_assistants_turn() -> None:
    template = JinjaTemplate(CHATTY, TOKENS)
    assert template.render([YO], RenderOptions(begin_answer=False)) == ["<assistant>Yo</assistant>"]


def test_a_prompt_may_end_inside_the_last_message() -> None:
    template = JinjaTemplate(CHATTY, TOKENS)
    last = Turn(role="assistant", content=" Yo yo ")
    assert template.render([YO, last], RenderOptions(continue_last=True)) == [
        "<assistant>Yo</assistant><assistant>Yo yo"
    ]


def test_a_message_that_the_template_rewrites_cannot_be_continued() -> None:
    template = JinjaTemplate("{{ messages[0].content | upper }}", TOKENS)
    with pytest.raises(BadRequest) as caught:
        template.render([YO], RenderOptions(continue_last=True))
    assert caught.value.param == "continue_final_message"


def test_a_request_may_set_variables_of_the_template() -> None:
    template = JinjaTemplate(CHATTY, TOKENS)
    options = RenderOptions(begin_answer=False, variables={"mood": "!", "messages": []})
    assert template.render([YO], options) == ["<assistant>Yo</assistant>!"]
