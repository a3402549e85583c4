"""How the answer to a chat request is read for thoughts and calls, and what holds it to them.

Which formats a model writes is found out from its chat template, unless the server was told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from mlc_llm.conversation_template.mlc import FUNCTIONS
from mlc_llm.models.folder import ModelFolder
from mlc_llm.protocol.generation import GenerationConfig, Grammar
from mlc_llm.protocol.requests import ChatCompletionRequest
from mlc_llm.serve.answer.reading import Reading
from mlc_llm.serve.parsers import Parsers, ToolArguments
from mlc_llm.serve.request.tools import ToolUse
from mlc_llm.tools.calls_grammar import grammar_of
from mlc_llm.tools.formats import (
    FALLBACK,
    GORILLA,
    MISTRAL,
    ToolFormat,
    detect_thoughts,
    detect_tools,
    open_reader,
    thoughts_by_name,
    tools_by_name,
)
from mlc_llm.tools.thoughts import ThoughtFormat


class Formats(Struct, frozen=True):
    """How a model writes calls and thoughts."""

    tools: ToolFormat
    thoughts: ThoughtFormat | None
    arguments: ToolArguments = "string"


def formats_of(folder: ModelFolder, parsers: Parsers, *, has_place: bool) -> Formats:
    """`has_place`: whether the model's template shows it tools; if not they are said in words.

    Raises BadConfig for parsers that do not exist.
    """
    source = folder.tool_use_template or folder.chat_template
    in_conv = FUNCTIONS in json.dumps(folder.conv_template or {})
    if parsers.tool_call is not None:
        tools = tools_by_name(parsers.tool_call)
    elif not has_place:
        tools = FALLBACK
    elif in_conv:
        name = str((folder.conv_template or {}).get("name", ""))
        tools = MISTRAL if name.startswith("ministral") else GORILLA
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
    """What holds the answer, `content` included; None: nothing more than that does."""
    shown_tokens: tuple[int, ...] = ()
    """Special tokens that the reader wants to see."""


class Tokens(Protocol):
    """What is asked of the tokenizer."""

    @property
    def special_tokens(self) -> Mapping[str, int]: ...
    @property
    def added_tokens(self) -> Mapping[str, int]: ...


def held_to(
    request: ChatCompletionRequest,
    formats: Formats,
    uses: ToolUse | None,
    prompt_end: str,
    tokens: Tokens,
    content: Grammar | None = None,
    shown_tokens: Sequence[int] = (),
) -> Held:
    """`prompt_end`: the last characters of the prompt; `content`: what texts must match;
    `shown_tokens`: special tokens that users see.

    Raises BadRequest for schemas that cannot be used.
    """
    thoughts = formats.thoughts
    is_inside = thoughts is not None and thoughts.opened_by(prompt_end)
    if request.continue_final_message and not is_inside:
        thoughts = None  # the answer began earlier
    form = formats.tools if uses is not None else None
    if form is None and thoughts is None:
        return Held()
    callable_ = uses.callable if uses is not None else ()
    markers = _special(form, thoughts, tokens.special_tokens)
    hidden = [name for name, token_id in markers.items() if token_id not in shown_tokens]
    reading = Reading(
        open=partial(open_reader, callable_, form, thoughts, is_inside),
        markers=() if request.skip_special_tokens is False else tuple(hidden),
        parallel=uses is None or uses.parallel,
        with_reasoning=request.include_reasoning is not False,
        arguments=formats.arguments,
    )
    grammar = grammar_of(
        formats.tools,
        callable_,
        required=uses is not None and uses.mode == "required",
        parallel=uses is None or uses.parallel,
        added_tokens=tokens.added_tokens,
        thoughts=thoughts,
        inside_thought=is_inside,
        thinking_tokens=request.thinking_token_budget if thoughts is not None else None,
        content=content,
    )
    return Held(reading, grammar, tuple(markers.values()))


def with_held(generation: GenerationConfig, held: Held) -> GenerationConfig:
    """What the engine is told."""
    return replace(
        generation,
        grammar=held.grammar or generation.grammar,
        shown_tokens=tuple(dict.fromkeys((*held.shown_tokens, *generation.shown_tokens))),
    )


def _special(
    form: ToolFormat | None, thoughts: ThoughtFormat | None, special_tokens: Mapping[str, int]
) -> dict[str, int]:
    """The special tokens that stand in marks of calls and thoughts."""
    texts: Sequence[str] = form.markers if form is not None else ()
    if thoughts is not None:
        texts = (*texts, thoughts.begin, thoughts.end)
    return {name: i for name, i in special_tokens.items() if any(name in text for text in texts)}
