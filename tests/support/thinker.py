"""A model of random weights that thinks before it answers and marks calls by special tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support import toy_tokenizers
from support.folders import WORDS, tiny_llama, write_hf_folder, write_json

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if tools %}<tool_call>{{ tools | length }}{% endif %}[assistant] "
    "{% if enable_thinking is not false %}<think>\n{% else %}<think></think>{% endif %}"
)
MARKERS = {"<think>": False, "</think>": False, "<tool_call>": True, "</tool_call>": True}
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["n"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}


def write_thinker(folder: Path) -> Path:
    """The model's folder, whose template thinks unless it is told not to."""
    write_hf_folder(folder, tiny_llama())
    tokenizer = toy_tokenizers.byte_fallback([*WORDS, " "])
    first = len(tokenizer["model"]["vocab"])
    for token_id, (name, special) in enumerate(MARKERS.items(), first):
        tokenizer["added_tokens"].append(
            {"id": token_id, "content": name, "special": special, "normalized": False}
            | {"single_word": False, "lstrip": False, "rstrip": False}
        )
    toy_tokenizers.write(folder, tokenizer)
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    write_json(folder / "tokenizer_config.json", config)
    return folder
