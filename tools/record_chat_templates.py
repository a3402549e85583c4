"""Record what transformers makes of chat templates, for the test that we make the same of them.

    python tools/record_chat_templates.py TEMPLATES OUT

TEMPLATES is a folder of `*.jinja`; OUT is the JSON file of the test. Needs transformers.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
DATES = ("%d %B %Y", "%d %b %Y", "%Y-%m-%d")
"""How templates write the day; it is taken out of what is recorded."""
REFUSED = "refused"

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "What is the weather in Zürich? 天気は？ <b>&amp;\"'</b>"}
ANSWER = {"role": "assistant", "content": "  Let me look. 🌧\n"}
MORE = {"role": "user", "content": "And tomorrow?"}
PREFIX = {"role": "assistant", "content": "It will be"}
THOUGHT = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nRain.", "name": "bot"}


def _call(number: int, **arguments: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    return {"id": f"call0000{number}", "type": "function", "function": function}


def _result(number: int, content: str) -> dict[str, Any]:
    call_id = f"call0000{number}"
    return {"role": "tool", "tool_call_id": call_id, "name": "weather", "content": content}


ONE = {"role": "assistant", "content": "", "tool_calls": [_call(1, city="Zürich", days=[1, 2])]}
NULL = {**ONE, "content": None}
TWO = {
    "role": "assistant",
    "content": "",
    "tool_calls": [_call(1, city="Zürich"), _call(2, city="東京", deep={"a": [True, None, 1.5]})],
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a place. Größe: “quoted” <tags>",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Where"},
                    "unit": {"type": "string", "enum": ["c", "f"]},
                    "days": {"type": "array", "items": {"type": "integer"}},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "now",
            "description": "The time.",
            "parameters": {"type": "object", "properties": {}},
        },
    },
]
SHAPES: dict[str, dict[str, Any]] = {
    "user": {"messages": [USER]},
    "system": {"messages": [SYSTEM, USER]},
    "turns": {"messages": [SYSTEM, USER, ANSWER, MORE]},
    "without_generation_prompt": {"messages": [USER, ANSWER], "begin": False},
    "prefix": {"messages": [USER, PREFIX], "continue": True},
    "thoughts": {"messages": [USER, THOUGHT, MORE]},
    "thinking_off": {"messages": [USER], "variables": {"enable_thinking": False}},
    "tools": {"messages": [USER], "tools": TOOLS},
    "tools_and_system": {"messages": [SYSTEM, USER], "tools": TOOLS},
    "call": {"messages": [USER, ONE, _result(1, "rain")], "tools": TOOLS},
    "call_without_content": {"messages": [USER, NULL, _result(1, "rain")], "tools": TOOLS},
    "calls": {
        "messages": [SYSTEM, USER, TWO, _result(1, '{"sky": "grün"}'), _result(2, "sun")],
        "tools": TOOLS,
    },
    "after_calls": {
        "messages": [USER, ONE, _result(1, "rain"), {**ANSWER}, MORE],
        "tools": TOOLS,
    },
    "history_without_tools": {"messages": [USER, ONE, _result(1, "rain")]},
    "user_first_twice": {"messages": [USER, MORE]},
    "empty": {"messages": [{"role": "user", "content": ""}]},
}


def rendered(source: str, shape: dict[str, Any]) -> str:
    """What transformers makes of one shape; REFUSED when it raises."""
    continues = shape.get("continue", False)
    try:
        (text,), _ = render_jinja_template(
            conversations=[shape["messages"]],
            chat_template=source,
            tools=shape.get("tools"),
            documents=None,
            add_generation_prompt=shape.get("begin", True) and not continues,
            continue_final_message=continues,
            **TOKENS,
            **shape.get("variables", {}),
        )
    except Exception:  # a template may raise anything
        return REFUSED
    for form in DATES:
        text = text.replace(time.strftime(form), "DATE")
    return str(text)


def main(folder: Path, out: Path) -> None:
    """Write the recording: a hash of every text, and the texts of the first template."""
    texts = {
        path.stem: {name: rendered(path.read_text(), shape) for name, shape in SHAPES.items()}
        for path in sorted(folder.rglob("*.jinja"))
    }
    hashes = {
        template: {
            name: text if text == REFUSED else hashlib.sha256(text.encode()).hexdigest()[:16]
            for name, text in found.items()
        }
        for template, found in texts.items()
    }
    shown = {template: found["call"] for template, found in texts.items()}
    recording = {"shapes": SHAPES, "hashes": hashes, "texts": shown}
    out.write_text(json.dumps(recording, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
