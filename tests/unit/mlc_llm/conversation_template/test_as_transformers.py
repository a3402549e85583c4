"""Published templates render what transformers renders (`tools/record_chat_templates.py`)."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from mlc_llm.conversation_template.jinja import JinjaTemplate
from mlc_llm.conversation_template.prompt import RenderOptions
from mlc_llm.errors import BadRequest
from mlc_llm.protocol.requests import ChatCompletionRequest, from_arguments
from mlc_llm.serve.request.turns import turns_of
from support.shared import shared_path

RECORDING = json.loads((Path(__file__).parent / "as_transformers.json").read_text())
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
REFUSED = "refused"


def ours(source: str, shape: dict[str, Any]) -> str:
    request = from_arguments(ChatCompletionRequest, {"messages": shape["messages"]})
    options = RenderOptions(
        begin_answer=shape.get("begin", True),
        continue_last=shape.get("continue", False),
        variables=shape.get("variables", {}),
        tools=shape.get("tools", ()),
    )
    try:
        pieces = JinjaTemplate(source, TOKENS).render(turns_of(request.messages, 9999), options)
    except BadRequest:
        return REFUSED
    text = "".join(map(str, pieces))
    for form in ("%d %B %Y", "%d %b %Y", "%Y-%m-%d"):
        text = text.replace(time.strftime(form), "DATE")
    return text


@pytest.mark.parametrize("template", RECORDING["hashes"])
def test_every_shape_of_messages_is_rendered_as_transformers_renders_it(template: str) -> None:
    source = shared_path(f"data/chat_templates/dev/{template}.jinja").read_text()
    recorded = RECORDING["hashes"][template]
    different = []
    for name, shape in RECORDING["shapes"].items():
        text = ours(source, shape)
        found = text if text == REFUSED else hashlib.sha256(text.encode()).hexdigest()[:16]
        if found != recorded[name]:
            different.append(name)
    assert not different
    assert ours(source, RECORDING["shapes"]["call"]) == RECORDING["texts"][template]
