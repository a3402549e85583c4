"""Calls of tools over a mock engine that says what models say, through the real text side."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from mlc_api.text import TextSide
from mlc_llm.protocol.messages import PROTOCOL_VERSION, FinishReason, Ready
from mlc_llm.serve.parsers import Parsers
from mlc_llm.serve.request.prepare import ServedModel
from support.byte_model import write_folder
from support.mock_client import says
from support.shared import shared_path
from support.web import WebServer

TOOL = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "parameters": {
            "type": "object",
            "properties": {"location": {"type": "string"}, "unit": {"type": "string"}},
        },
    },
}
CALL = "get_current_weather(location='Pittsburgh, PA', unit='fahrenheit')"
ARGUMENTS = {"location": "Pittsburgh, PA", "unit": "fahrenheit"}
PLACE = "{% if tools %}{{ tools }}{% endif %}"
GORILLA = "<<question>> <<function>>" + PLACE
THINKING = "</think><tool_call>" + PLACE


class Limits:
    """What the text side asks an engine."""

    ready = Ready(PROTOCOL_VERSION, 1, 261, 4, 1 << 16, 1 << 16, 128)


@contextlib.contextmanager
def serving(folder: Path, template: str, **parsers: Any) -> Iterator[WebServer]:
    model = ServedModel.load(write_folder(folder, chat_template=template), "m", Parsers(**parsers))
    server = WebServer()
    server.served.preparer = TextSide(model, Limits(), with_extra=False)  # type: ignore[arg-type]
    with server:
        yield server


def ask(web: WebServer, **fields: Any) -> Any:
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": [TOOL], **fields}
    answer = requests.post(f"{web.url}/v1/chat/completions", json=body, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer


def test_a_call_in_the_models_notation_is_a_call_on_the_wire(tmp_path: Path) -> None:
    with serving(tmp_path / "m", GORILLA) as web:
        web.engine.script = says(CALL[:30], CALL[30:])
        (choice,) = ask(web).json()["choices"]
        (call,) = choice["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == ARGUMENTS
        assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
        lines = ask(web, stream=True).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    news = [chunk["choices"][0]["delta"].get("tool_calls") for chunk in chunks]
    calls = [call for some in news if some for call in some]
    assert calls[0]["id"] == call["id"] or calls[0]["id"].startswith("call_")
    assert calls[0]["function"] == {"name": "get_current_weather", "arguments": ""}
    fragments = "".join(c["function"]["arguments"] for c in calls)
    assert json.loads(fragments) == ARGUMENTS
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert not any("content" in chunk["choices"][0]["delta"] for chunk in chunks)


def seeds() -> list[str]:
    """The two programs of the REST page that call functions."""
    page = shared_path("seeds/rest-api.txt").read_text()
    _, _, rest = page.partition("There is also support for function calling")
    programs = rest.split("import requests\nimport json\n")[1:]
    return [f"import requests\nimport json\n{program.split('# Output')[0]}" for program in programs]


def test_the_programs_of_the_documentation_print_what_it_says(tmp_path: Path) -> None:
    with serving(tmp_path / "m", GORILLA, tool_arguments="object") as web:
        printed = []
        tokyo = CALL.replace("Pittsburgh, PA", "Tokyo, JP")
        for program, text in zip(seeds(), (CALL, f"[{CALL}, {tokyo}]"), strict=True):
            web.engine.script = says(text[:20], text[20:])
            source = program.replace("http://127.0.0.1:8080", web.url)
            source = source.replace("./dist/gorilla-openfunctions-v1-q4f16_1-MLC/", "m")
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(source, "seed", "exec"), {})
            printed.append(output.getvalue().strip())
    assert printed[0] == str({"name": "get_current_weather", "arguments": ARGUMENTS})
    assert printed[1] == f"[{CALL}, {tokyo}]"


def test_thoughts_and_a_call_that_is_cut_off(tmp_path: Path) -> None:
    text = 'hm</think>\n\nYes.\n<tool_call>\n{"name": "get_current_weather", "argu'
    with serving(tmp_path / "m", THINKING + "<think>\n") as web:
        web.engine.script = says(text, reason=FinishReason.LENGTH)
        (choice,) = ask(web).json()["choices"]
    message = choice["message"]
    assert (message["reasoning_content"], choice["finish_reason"]) == ("hm", "length")
    assert message["content"].startswith("Yes.\n<tool_call>")
    assert "tool_calls" not in message


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_imitates_markers_breaks_nothing(tmp_path: Path, stream: bool) -> None:
    hostile = "<tool_call></tool_call><tool_call>{]\x00\ud7ff<tool_call>" * 50 + '{"name": "'
    with serving(tmp_path / "m", THINKING) as web:
        web.engine.script = says(*(hostile[i : i + 7] for i in range(0, len(hostile), 7)))
        answer = ask(web, stream=stream)
    if stream:
        lines = [line for line in answer.text.splitlines() if line.startswith("data: {")]
        deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines]
        assert "".join(delta["content"] for delta in deltas) == hostile
    else:
        assert answer.json()["choices"][0]["message"]["content"] == hostile
