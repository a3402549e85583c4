"""Conversation templates by MLC's names, as `gen_config` writes them into mlc-chat-config.json.

Only their shape: system messages are empty, because they belong to the models. Templates that put
tools into the prompt are left out; a model's own Jinja template does that.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from mlc_llm.errors import BadConfig


class Shape(Struct, frozen=True):
    """What differs from one template to the next."""

    system: str
    user: str
    assistant: str
    seps: tuple[str, ...]
    content_sep: str
    empty_sep: str
    prefix: tuple[int, ...] = ()
    stop_ids: tuple[int, ...] = ()
    stop_strs: tuple[str, ...] = ()
    role_after_system: bool = True
    tool: str | None = None


_LLAMA3 = Shape(
    "<|start_header_id|>system<|end_header_id|>\n\n{system_message}<|eot_id|>",
    "<|start_header_id|>user",
    "<|start_header_id|>assistant",
    ("<|eot_id|>",),
    "<|end_header_id|>\n\n",
    "<|end_header_id|>\n\n",
    (128000,),
    (128001, 128009),
    ("<|end_of_text|>", "<|eot_id|>"),
)
_CHATML = Shape(
    "<|im_start|>system\n{system_message}<|im_end|>\n",
    "<|im_start|>user",
    "<|im_start|>assistant",
    ("<|im_end|>\n",),
    "\n",
    "\n",
    (),
    (2,),
    ("<|im_end|>",),
)
_QWEN = msgspec.structs.replace(
    _CHATML, stop_ids=(151643, 151645), stop_strs=("<|endoftext|>", "<|im_end|>")
)
_GEMMA = Shape(
    "{system_message}",
    "<start_of_turn>user",
    "<start_of_turn>model",
    ("<end_of_turn>\n",),
    "\n",
    "\n",
    (2,),
    (1, 107),
    ("<end_of_turn>",),
)
_PHI = Shape(
    "<|system|>\n{system_message}",
    "<|user|>",
    "<|assistant|>",
    ("<|end|>\n",),
    "\n",
    "\n",
    (1,),
    (2, 32000, 32001, 32007),
    ("<|endoftext|>",),
)
_DEEPSEEK = Shape(
    "<｜begin▁of▁sentence｜>{system_message}",
    "<｜User｜>",
    "<｜Assistant｜>",
    ("", "<｜end▁of▁sentence｜>"),
    "",
    "",
    (),
    (1,),
)

SHAPES = {
    "llama-3": _LLAMA3,
    "llama-3_1": msgspec.structs.replace(
        _LLAMA3, stop_ids=(128001, 128008, 128009), tool="<|start_header_id|>ipython"
    ),
    "llama-2": Shape(
        "[INST] <<SYS>>\n{system_message}\n<</SYS>>\n\n",
        "<s>[INST]",
        "[/INST]",
        (" ", " </s>"),
        " ",
        " ",
        (1,),
        (2,),
        ("[INST]",),
        role_after_system=False,
        tool="[INST]",
    ),
    "chatml": _CHATML,
    "open_hermes_mistral": msgspec.structs.replace(_CHATML, stop_ids=(2, 32000)),
    "neural_hermes_mistral": msgspec.structs.replace(_CHATML, stop_ids=(2, 32000)),
    "hermes2_pro_llama3": msgspec.structs.replace(_CHATML, stop_ids=(128001, 128009, 128003)),
    "hermes3_llama-3_1": msgspec.structs.replace(
        _CHATML, stop_ids=(128001, 128008, 128009, 128040)
    ),
    "qwen2": _QWEN,
    "qwen3": _QWEN,
    "mistral_default": Shape(
        "[INST] {system_message}",
        "[INST]",
        "[/INST]",
        (" ",),
        " ",
        "",
        (1,),
        (2,),
        ("</s>",),
        role_after_system=False,
        tool="[INST]",
    ),
    "gemma_instruction": _GEMMA,
    "gemma3_instruction": msgspec.structs.replace(_GEMMA, stop_ids=(1, 106)),
    "phi-3": _PHI,
    "phi-4": msgspec.structs.replace(_PHI, prefix=(200022,), stop_ids=(199999, 200020)),
    "deepseek_v3": _DEEPSEEK,
    "deepseek_r1_qwen": msgspec.structs.replace(_DEEPSEEK, stop_ids=(151643,)),
    "deepseek_r1_llama": msgspec.structs.replace(_DEEPSEEK, stop_ids=(128001,)),
    "tinyllama_v1_0": Shape(
        "<|system|>\n{system_message}</s>",
        "<|user|>",
        "<|assistant|>",
        ("</s>",),
        "\n",
        "\n",
        (),
        (2,),
        ("</s>",),
    ),
    "LM": Shape("{system_message}", "", "", ("",), "", "", (1,), (2,)),
}


def document(name: str) -> dict[str, Any]:
    """`conv_template` of mlc-chat-config.json; raises `BadConfig` that lists the known names."""
    shape = SHAPES.get(name)
    if shape is None:
        known = ", ".join(("auto", *SHAPES))
        raise BadConfig(f"conversation template {name!r} is not known; use one of {known}")
    roles = {"user": shape.user, "assistant": shape.assistant}
    templates = {"user": "{user_message}", "assistant": "{assistant_message}"}
    if shape.tool is not None:
        roles["tool"] = shape.tool
        templates["tool"] = "{tool_message}"
    return {
        "name": name,
        "system_template": shape.system,
        "system_message": "",
        "system_prefix_token_ids": list(shape.prefix) or None,
        "add_role_after_system_message": shape.role_after_system,
        "roles": roles,
        "role_templates": templates,
        "messages": [],
        "seps": list(shape.seps),
        "role_content_sep": shape.content_sep,
        "role_empty_sep": shape.empty_sep,
        "stop_str": list(shape.stop_strs),
        "stop_token_ids": list(shape.stop_ids),
        "function_string": "",
        "use_function_calling": False,
    }
