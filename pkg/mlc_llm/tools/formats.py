"""The formats in which models write calls and thoughts, by name, and which template has which.

Adding a format is one value here, and its parser.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

from mlc_llm.errors import BadConfig
from mlc_llm.tools import json_calls, named_calls, python_calls, xml_calls
from mlc_llm.tools.call_reader import MAX_CALLS, CallReader, Form
from mlc_llm.tools.events import Reader
from mlc_llm.tools.shape import CallShape
from mlc_llm.tools.thoughts import PlainReader, ThoughtFormat, ThoughtReader
from mlc_llm.tools.tool import Tool


class ToolFormat(Struct, frozen=True):
    """One way of writing calls."""

    name: str
    reader: Form
    """How calls are found and read; lenient."""
    shape: CallShape
    """How calls are written where a grammar enforces them; strict."""
    signs: tuple[tuple[str, ...], ...] = ()
    """A chat template that has all texts of one of these teaches the format."""

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts that must show in the model's text, also where they are special tokens."""
        shape = self.shape
        closing = (shape.first, shape.before, shape.middle, shape.after, shape.last)
        return (*self.reader.markers, *(text.strip() for text in closing if text.strip()))


HERMES = ToolFormat(
    "hermes",
    Form({"<tool_call>": json_calls.tagged("<tool_call>", "</tool_call>")}),
    CallShape('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>"),
    (("<tool_call>", '"arguments"'), ("<tool_call>",)),
)
"""Hermes, Qwen 2.5, Qwen 3 and many others; what templates without tools are taught."""

LLAMA3_JSON = ToolFormat(
    "llama3_json",
    Form(
        {
            "<|python_tag|>": json_calls.tagged("<|python_tag|>", ""),
            "<|python_start|>": json_calls.tagged("<|python_start|>", "<|python_end|>"),
            named_calls.FUNCTION: named_calls.llama_function,
        },
        line_starts="{",
        bare=json_calls.bare,
    ),
    CallShape('{"name": "', '", "parameters": ', "}", between="; "),
    (('"parameters": dictionary',), ("python_tag", '"parameters": '), ("<|eom_id|>",)),
)
"""Llama 3.1 to 4."""

PYTHONIC = ToolFormat(
    "pythonic",
    Form(
        {"<|python_start|>": python_calls.fenced("<|python_start|>", "<|python_end|>")},
        r"\[",
        bare=python_calls.bare,
    ),
    CallShape("", "(**", ")", first="[", between=", ", last="]"),
    (("func_name1(",), ("[func(", "python_start")),
)
"""Llama 3.2 and 4, where the prompt asks for a list of calls in Python's notation."""

MISTRAL = ToolFormat(
    "mistral",
    Form({named_calls.TOOL_CALLS: named_calls.mistral}),
    CallShape('{"name": "', '", "arguments": ', "}", "[TOOL_CALLS][", ", ", "]", after_token=" "),
    (("[TOOL_CALLS]",),),
)
"""Mistral, with a list of objects."""

MISTRAL_ARGS = ToolFormat(
    "mistral_args",
    MISTRAL.reader,
    CallShape("[TOOL_CALLS]", "[ARGS]", between="", after_token=" "),
    (("[TOOL_CALLS]", "[ARGS]"),),
)
"""Mistral since 2025, with the name before the arguments."""

GORILLA = ToolFormat(
    "gorilla",
    Form(
        {"<<function>>": python_calls.fenced("<<function>>", "")},
        r"\[",
        names_start=True,
        bare=python_calls.bare,
    ),
    CallShape("", "(**", ")", first="[", between=", ", last="]"),
    (("{function_string}",), ("<<function>>",)),
)
"""Gorilla, and what MLC LLM asks of every model: calls in Python's notation, alone or in a list."""

PHI4_MINI = ToolFormat(
    "phi4_mini",
    Form(
        {
            "<|tool_call|>": json_calls.tagged("<|tool_call|>", "<|/tool_call|>"),
            "functools": json_calls.tagged("functools", ""),
        }
    ),
    CallShape('{"name": "', '", "arguments": ', "}", "<|tool_call|>[", ", ", "]<|/tool_call|>"),
    (("<|tool|>",), ("<|tool_call|>",)),
)
"""Phi-4-mini."""

GEMMA = ToolFormat(
    "gemma",
    Form(
        {
            "```tool_code": python_calls.fenced("```tool_code", "```"),
            "```json": json_calls.tagged("```json", "```"),
        }
    ),
    CallShape("", "(**", ")", "```tool_code\n", "\n", "\n```"),
    (("tool_code",),),
)
"""Gemma, by its guide: Python in a block of code."""

DEEPSEEK_V3 = ToolFormat(
    "deepseek_v3",
    Form(
        {
            named_calls.CALLS_BEGIN: named_calls.deepseek,
            named_calls.CALL_BEGIN: named_calls.deepseek,
        }
    ),
    CallShape(
        f"{named_calls.CALL_BEGIN}function{named_calls.SEPARATOR}",
        "\n```json\n",
        f"\n```{named_calls.CALL_END}",
        named_calls.CALLS_BEGIN,
        "\n",
        named_calls.CALLS_END,
    ),
    ((named_calls.CALL_BEGIN, "```json"),),
)
"""DeepSeek V2.5, V3 and R1."""

DEEPSEEK_V31 = ToolFormat(
    "deepseek_v31",
    DEEPSEEK_V3.reader,
    CallShape(
        named_calls.CALL_BEGIN,
        named_calls.SEPARATOR,
        named_calls.CALL_END,
        named_calls.CALLS_BEGIN,
        "",
        named_calls.CALLS_END,
    ),
    ((named_calls.CALL_BEGIN,),),
)
"""DeepSeek V3.1."""

QWEN3_CODER = ToolFormat(
    "qwen3_coder",
    Form(
        {
            "<tool_call>": xml_calls.tagged,
            named_calls.FUNCTION: xml_calls.untagged,
        }
    ),
    HERMES.shape,
    (("<function=", "<parameter="),),
)
"""Qwen3-Coder: tags around every parameter. Where a grammar enforces calls they are Hermes'."""

TOOL_FORMATS: dict[str, ToolFormat] = {
    form.name: form
    for form in (
        QWEN3_CODER,
        MISTRAL_ARGS,
        MISTRAL,
        DEEPSEEK_V3,
        DEEPSEEK_V31,
        PHI4_MINI,
        GORILLA,
        PYTHONIC,
        LLAMA3_JSON,
        HERMES,
        GEMMA,
    )
}
"""By name, in the order in which templates are asked for them."""
FALLBACK = HERMES

THINK = ThoughtFormat("think", "<think>", "</think>")
THOUGHT_FORMATS: dict[str, ThoughtFormat] = {
    form.name: form
    for form in (
        THINK,
        ThoughtFormat("mistral", "[THINK]", "[/THINK]"),
        ThoughtFormat("reasoning", "<reasoning>", "</reasoning>"),
        ThoughtFormat("seed", "<seed:think>", "</seed:think>"),
    )
}


def has_place_for_tools(template: str | None) -> bool:
    """Whether a Jinja template does anything with `tools`; if not, `fallback` says them.

    `messages[0].tools`, which some read, is never set.
    """
    return template is not None and _TOOLS.search(template) is not None


_TOOLS = re.compile(r"""(?<![\w.'"<_/])tools\b""")


def detect_tools(template: str | None) -> ToolFormat:
    """The format that a Jinja template teaches; Hermes' when it is not known to teach any."""
    for form in TOOL_FORMATS.values():
        if template and any(all(text in template for text in sign) for sign in form.signs):
            return form
    return FALLBACK


def tools_by_name(name: str) -> ToolFormat:
    """Raises BadConfig that lists the names."""
    if name not in TOOL_FORMATS:
        names = ", ".join(sorted(TOOL_FORMATS))
        raise BadConfig(f'There is no tool-call parser "{name[:50]}"; use one of: {names}.')
    return TOOL_FORMATS[name]


def detect_thoughts(template: str | None) -> ThoughtFormat | None:
    """The marks of thoughts that a template knows; None when it knows none."""
    for form in THOUGHT_FORMATS.values():
        if template is not None and form.end in template:
            return form
    return None


def thoughts_by_name(name: str) -> ThoughtFormat | None:
    """ "none" turns the reading of thoughts off. Raises BadConfig that lists the names."""
    if name == "none":
        return None
    if name not in THOUGHT_FORMATS:
        names = ", ".join([*THOUGHT_FORMATS, "none"])
        raise BadConfig(f'There is no reasoning parser "{name[:50]}"; use one of: {names}.')
    return THOUGHT_FORMATS[name]


def open_reader(
    tools: Sequence[Tool] = (),
    form: ToolFormat | None = None,
    thoughts: ThoughtFormat | None = None,
    inside_thought: bool = False,
    max_calls: int = MAX_CALLS,
) -> Reader:
    """A reader of one choice; without tools and thoughts everything is content.

    `inside_thought`: the prompt ends within a thought (`ThoughtFormat.opened_by`).
    """
    reader: Reader = PlainReader()
    if form is not None and tools:
        reader = CallReader(form.reader, tools, max_calls)
    if thoughts is not None:
        reader = ThoughtReader(thoughts, inside_thought, reader)
    return reader
