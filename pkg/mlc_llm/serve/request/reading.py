"""How the answer to a chat request is read for thoughts and calls, and what holds it to them.

Which formats a model writes is found out from its chat template, unless the server was told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, Protocol

from msgspec import Struct
from msgspec.structs import replace

from mlc_llm.models.folder import ModelFolder
from mlc_llm.protocol.generation import GenerationConfig, Grammar, ThinkingBudget
from mlc_llm.protocol.requests import ChatCompletionRequest
from mlc_llm.serve.answer.reading import Reading
from mlc_llm.serve.request.tools import ToolUse
from mlc_llm.tools.calls_grammar import grammar_of
from mlc_llm.tools.formats import (
    ToolFormat,
    detect_thoughts,
    detect_tools,
    open_reader,
    thoughts_by_name,
    tools_by_name,
)
from mlc_llm.tools.thoughts import ThoughtFormat

ToolArguments = Literal["string", "object"]
PYTHON_CALLS = "gorilla"
"""What MLC LLM's templates with a place for functions were trained on."""


class Parsers(Struct, frozen=True, kw_only=True):
    """How the server was told to read answers. None: find out from the chat template."""

    tool_call: str | None = None
    reasoning: str | None = None
    tool_arguments: ToolArguments = "string"


DEFAULT_PARSERS = Parsers()


class Formats(Struct, frozen=True):
    """How a model writes calls and thoughts."""

    tools: ToolFormat
    thoughts: ThoughtFormat | None
    arguments: ToolArguments = "string"


def formats_of(folder: ModelFolder, parsers: Parsers) -> Formats:
    """Raises BadConfig for parsers that do not exist."""
    source = folder.tool_use_template or folder.chat_template
    in_conv = "{function_string}" in json.dumps(folder.conv_template or {})
    if parsers.tool_call is not None:
        tools = tools_by_name(parsers.tool_call)
    elif in_conv:
        name = str((folder.conv_template or {}).get("name", ""))
        tools = tools_by_name("mistral" if name.startswith("ministral") else PYTHON_CALLS)
    else:
        tools = detect_tools(source)
    if parsers.reasoning is not None:
        thoughts = thoughts_by_name(parsers.reasoning)
    else:
        thoughts = detect_thoughts(folder.chat_template)
    return Formats(tools, thoughts, parsers.tool_arguments)


class Held(Struct, frozen=True):
    """What the engine and the answer need to know of thoughts and calls."""

    reading: Reading | None = None
    grammar: Grammar | None = None
    """What holds the answer to the tools; None: nothing does."""
    shown_tokens: tuple[int, ...] = ()
    """Special tokens that the reader wants to see."""
    thinking: ThinkingBudget | None = None


class Tokens(Protocol):
    """What is asked of the tokenizer."""

    @property
    def special_tokens(self) -> Mapping[str, int]: ...
    @property
    def added_tokens(self) -> Mapping[str, int]: ...
    def encode(self, text: str, /) -> list[int]: ...


def held_to(
    request: ChatCompletionRequest,
    formats: Formats,
    uses: ToolUse | None,
    prompt_end: str,
    tokens: Tokens,
) -> Held:
    """`prompt_end`: the last characters of the prompt. Raises BadRequest for unusable schemas."""
    thoughts = formats.thoughts
    is_inside = thoughts is not None and thoughts.opened_by(prompt_end)
    if request.continue_final_message and not is_inside:
        thoughts = None  # the answer began earlier
    form = formats.tools if uses is not None else None
    if form is None and thoughts is None:
        return Held()
    callable_ = uses.callable if uses is not None else ()
    markers = _special(form, thoughts, tokens.special_tokens)
    reading = Reading(
        open=partial(open_reader, callable_, form, thoughts, is_inside),
        markers=() if request.skip_special_tokens is False else tuple(markers),
        parallel=uses is None or uses.parallel,
        with_reasoning=request.include_reasoning is not False,
        arguments=formats.arguments,
    )
    return Held(
        reading,
        _grammar(uses, form, thoughts, is_inside, tokens),
        tuple(markers.values()),
        _thinking(request, thoughts, is_inside, tokens),
    )


def _grammar(
    uses: ToolUse | None,
    form: ToolFormat | None,
    thoughts: ThoughtFormat | None,
    is_inside: bool,
    tokens: Tokens,
) -> Grammar | None:
    if uses is None or form is None or not uses.is_enforced:
        return None
    return grammar_of(
        form,
        uses.callable,
        required=uses.mode == "required",
        parallel=uses.parallel,
        added_tokens=tokens.added_tokens,
        thoughts=thoughts,
        inside_thought=is_inside,
    )


def _thinking(
    request: ChatCompletionRequest,
    thoughts: ThoughtFormat | None,
    is_inside: bool,
    tokens: Tokens,
) -> ThinkingBudget | None:
    budget = request.thinking_token_budget
    if budget is None or thoughts is None:
        return None
    end = tuple(tokens.encode(thoughts.end))
    return ThinkingBudget(budget, thoughts.begin, end, is_inside)


def with_held(generation: GenerationConfig, held: Held) -> GenerationConfig:
    """What the engine is told: at most one grammar, and that of the tools when there are two."""
    return replace(
        generation,
        grammar=held.grammar or generation.grammar,
        shown_tokens=held.shown_tokens,
        thinking=held.thinking,
    )


def _special(
    form: ToolFormat | None, thoughts: ThoughtFormat | None, special_tokens: Mapping[str, int]
) -> dict[str, int]:
    """The special tokens that stand in marks of calls and thoughts."""
    texts: Sequence[str] = form.markers if form is not None else ()
    if thoughts is not None:
        texts = (*texts, thoughts.begin, thoughts.end)
    return {name: i for name, i in special_tokens.items() if any(name in text for text in texts)}
