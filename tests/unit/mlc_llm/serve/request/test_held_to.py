"""How answers are read, and what holds them: from the template, the request and the server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlc_llm.errors import BadConfig, BadRequest
from mlc_llm.protocol.requests import ChatCompletionRequest, from_arguments
from mlc_llm.serve.parsers import Parsers
from mlc_llm.serve.request.prepare import Prepared, ServedModel, prepare_chat
from mlc_llm.tools.events import CallBegins, Content, Thought
from support.byte_model import READY, TEMPLATE, write_folder

THINKING = TEMPLATE + "{# </think> #}{% if enable_thinking is not false %}<think>\n{% endif %}"
TOOLS = "{% if tools %}<tool_call>{% endif %}" + TEMPLATE
WIDE = msgspec.structs.replace(READY, vocab_size=300)
CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


def a_model(folder: Path, template: str, *added: str, special: bool = True, **parsers: Any) -> Any:
    """A byte model with this template and these added tokens."""
    write_folder(folder, chat_template=template)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    first = max(tokenizer["model"]["vocab"].values()) + 1
    for index, name in enumerate(added, first):
        entry = {"id": index, "content": name, "special": special, "normalized": False}
        entry |= {"single_word": False, "lstrip": False, "rstrip": False}
        tokenizer["added_tokens"].append(entry)
    path.write_text(json.dumps(tokenizer))
    return ServedModel.load(folder, "toy", Parsers(**parsers))


def tool(name: str = "f", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def chat(model: ServedModel, **fields: Any) -> Prepared:
    body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    request = from_arguments(ChatCompletionRequest, body)
    return asyncio.run(prepare_chat(request, model, WIDE, "r"))


def events(prepared: Prepared, text: str) -> list[Any]:
    assert prepared.answer.reading is not None
    reader = prepared.answer.reading.open()
    return [*reader.feed(text), *reader.finish()]


def test_a_plain_chat_is_not_read(tmp_path: Path) -> None:
    prepared = chat(a_model(tmp_path / "m", TOOLS))
    assert prepared.answer.reading is None
    generation = prepared.submits[0].generation
    assert (generation.grammar, generation.shown_tokens) == (None, ())


def test_calls_are_read_when_there_are_tools(tmp_path: Path) -> None:
    model = a_model(tmp_path / "m", TOOLS)
    assert CallBegins("f") in events(chat(model, tools=[tool()]), CALL)
    others = events(chat(model, tools=[tool("g")]), CALL)
    assert "".join(event.text for event in others if type(event) is Content) == CALL
    assert chat(model, tools=[tool()], tool_choice="none").answer.reading is None


def test_thoughts_are_read_from_where_the_prompt_leaves_the_model(tmp_path: Path) -> None:
    model = a_model(tmp_path / "m", THINKING)
    assert events(chat(model), "hm</think>yes") == [Thought("hm"), Content("yes")]
    prepared = chat(model, reasoning_effort="none")
    assert events(prepared, "yes") == [Content("yes")]


def test_the_server_may_be_told_how_to_read(tmp_path: Path) -> None:
    model = a_model(tmp_path / "m", THINKING, reasoning="none", tool_call="hermes")
    assert chat(model).answer.reading is None
    object_ = a_model(tmp_path / "n", TOOLS, tool_arguments="object")
    reading = chat(object_, tools=[tool()]).answer.reading
    assert reading is not None
    assert reading.arguments == "object"
    with pytest.raises(BadConfig, match="hermes"):
        a_model(tmp_path / "o", TOOLS, tool_call="unknown")
    with pytest.raises(BadConfig, match="none"):
        a_model(tmp_path / "p", TOOLS, reasoning="unknown")


def test_special_tokens_that_mark_calls_are_shown_to_the_reader_alone(tmp_path: Path) -> None:
    model = a_model(tmp_path / "m", TOOLS, "<tool_call>", "</tool_call>", "<other>")
    shown = [model.tokenizer.special_tokens[name] for name in ("<tool_call>", "</tool_call>")]
    prepared = chat(model, tools=[tool()])
    assert prepared.submits[0].generation.shown_tokens == tuple(shown)
    assert prepared.answer.reading is not None
    assert prepared.answer.reading.markers == ("<tool_call>", "</tool_call>")
    whole = chat(model, tools=[tool()], skip_special_tokens=False)
    assert whole.answer.reading is not None
    assert whole.answer.reading.markers == ()


TAG = {
    "type": "structural_tag",
    "structures": [{"begin": "<tool_call>", "schema": {}, "end": "</tool_call>"}],
    "triggers": ["<tool_call>"],
}


def test_special_tokens_that_mark_a_structural_tag_are_shown_to_who_asked(tmp_path: Path) -> None:
    model = a_model(tmp_path / "m", TOOLS, "<tool_call>", "</tool_call>", "<other>")
    shown = [model.tokenizer.special_tokens[name] for name in ("<tool_call>", "</tool_call>")]
    assert chat(model, response_format=TAG).submits[0].generation.shown_tokens == tuple(shown)
    with_tools = chat(model, response_format=TAG, tools=[tool()])
    assert with_tools.submits[0].generation.shown_tokens == tuple(shown)
    assert with_tools.answer.reading is not None
    assert with_tools.answer.reading.markers == ()
    hidden = chat(model, response_format=TAG, skip_special_tokens=True)
    assert hidden.submits[0].generation.shown_tokens == ()
    assert (
        chat(model, response_format={"type": "json_object"}).submits[0].generation.shown_tokens
        == ()
    )


@pytest.mark.parametrize(
    ("fields", "is_held"),
    [
        ({"tools": [tool()]}, False),
        ({"tools": [tool(strict=True)]}, True),
        ({"tools": [tool()], "tool_choice": "required"}, True),
        ({"tools": [tool()], "tool_choice": tool()}, True),
        ({"tools": [tool(strict=True)], "tool_choice": "none"}, False),
    ],
    ids=str,
)
def test_what_must_be_called_is_held_by_a_grammar(
    tmp_path: Path, fields: dict[str, Any], is_held: bool
) -> None:
    prepared = chat(a_model(tmp_path / "m", TOOLS), **fields)
    grammar = prepared.submits[0].generation.grammar
    assert (grammar is not None) == is_held
    if grammar is not None:
        assert (grammar.kind, grammar.param) == ("tools", "tools")


def test_the_end_of_thoughts_is_forced_after_their_budget(tmp_path: Path) -> None:
    model = a_model(tmp_path / "m", THINKING, "</think>", special=False)
    grammar = chat(model, thinking_token_budget=7).submits[0].generation.grammar
    assert grammar is not None
    assert "max_tokens=7" in grammar.text
    assert chat(model).submits[0].generation.grammar is None
    with pytest.raises(BadRequest) as caught:
        chat(a_model(tmp_path / "n", THINKING), thinking_token_budget=7)
    assert caught.value.param == "thinking_token_budget"


def test_a_model_without_thoughts_has_any_budget(tmp_path: Path) -> None:
    prepared = chat(a_model(tmp_path / "m", TEMPLATE), thinking_token_budget=7)
    assert prepared.submits[0].generation.grammar is None


SCHEMA = {"type": "json_object", "schema": {"const": 7}}


def grammar(prepared: Prepared) -> Any:
    found = prepared.submits[0].generation.grammar
    assert found is not None
    return found


def test_a_format_and_tools_make_an_answer_that_is_either(tmp_path: Path) -> None:
    model = a_model(tmp_path / "m", TOOLS)
    found = grammar(chat(model, tools=[tool()], response_format=SCHEMA))
    assert "answer: content |" in found.text
    required = chat(model, tools=[tool()], tool_choice="required", response_format=SCHEMA)
    assert "content" not in grammar(required).text
    lark = grammar(chat(model, tools=[tool()], guided_grammar='start: "a"'))
    assert "answer: content |" in lark.text
    assert json.loads(lark.text)["content"] == ["lark", 'start: "a"', "guided_grammar"]


def test_a_format_begins_after_the_thoughts(tmp_path: Path) -> None:
    model = a_model(tmp_path / "m", THINKING)
    found = grammar(chat(model, response_format=SCHEMA))
    assert (found.kind, found.param) == ("tools", "response_format.schema")
    assert found.text.index("thinking") < found.text.index("content")
    plain = grammar(chat(a_model(tmp_path / "n", TEMPLATE), response_format=SCHEMA))
    assert plain.kind == "json_schema"


def test_a_grammar_begins_after_the_thoughts_too(tmp_path: Path) -> None:
    prepared = chat(a_model(tmp_path / "m", THINKING), guided_grammar='start: "a"')
    assert (grammar(prepared).kind, grammar(prepared).param) == ("tools", "guided_grammar")
    assert prepared.answer.reading is not None
