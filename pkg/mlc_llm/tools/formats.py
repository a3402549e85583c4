"""The formats in which models write calls and thoughts, by name, and which template has which.

Adding a format is one value here, and its parser.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from mlc_llm.errors import BadConfig
from mlc_llm.tools import json_calls
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
        {"<|python_tag|>": json_calls.tagged("<|python_tag|>", "")},
        r"{",
        json_calls.bare,
    ),
    CallShape('{"name": "', '", "parameters": ', "}", between="; "),
    (('"parameters": dictionary',), ('"name": function name', '"parameters"'), ('"parameters": ',)),
)
"""Llama 3.1, 3.2 and 3.3."""

TOOL_FORMATS: dict[str, ToolFormat] = {
    form.name: form
    for form in (
        LLAMA3_JSON,
        HERMES,
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
    """Whether a Jinja template does anything with `tools`; if not, `fallback` says them."""
    return template is not None and "tools" in template


def detect_tools(template: str | None) -> ToolFormat:
    """The format that a Jinja template teaches; Hermes' where it has no place for tools."""
    if template is None or not has_place_for_tools(template):
        return FALLBACK
    for form in TOOL_FORMATS.values():
        if any(all(text in template for text in sign) for sign in form.signs):
            return form
    return FALLBACK


def tools_by_name(name: str) -> ToolFormat:
    """Raises BadConfig that lists the names."""
    if name not in TOOL_FORMATS:
        raise BadConfig(
            f'There is no tool-call parser "{name[:50]}"; use one of: {", ".join(TOOL_FORMATS)}.'
        )
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
