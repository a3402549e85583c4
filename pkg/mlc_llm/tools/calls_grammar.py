"""The grammar of an answer that must call tools, or may call them only as their schemas say.

`grammar_of` writes it in Lark's notation, with the tools' schemas beside it; the engine compiles it
(`mlc_workers.guided`). A text that follows it is read by the reader of the same format as calls,
whose arguments obey the schemas.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mlc_llm.errors import BadRequest
from mlc_llm.grammar.limits import check_grammar
from mlc_llm.protocol.generation import Grammar
from mlc_llm.tools.call_reader import MAX_CALLS
from mlc_llm.tools.content import Content, content_rule
from mlc_llm.tools.formats import ToolFormat
from mlc_llm.tools.lark import ANY, literal, pattern, without
from mlc_llm.tools.thoughts import ThoughtFormat
from mlc_llm.tools.tool import Tool

MAX_THINKING_TOKENS = 1 << 30
ANY_ARGUMENTS: dict[str, Any] = {"type": "object"}
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
OTHER_NAMES = frozenset(
    "additionalProperties unevaluatedProperties patternProperties propertyNames $ref allOf anyOf "
    "oneOf if then else dependentSchemas dependencies minProperties".split()
)


def grammar_of(
    form: ToolFormat,
    tools: Sequence[Tool],
    *,
    required: bool,
    parallel: bool,
    added_tokens: Mapping[str, int],
    thoughts: ThoughtFormat | None = None,
    inside_thought: bool = False,
    thinking_tokens: int | None = None,
    content: Grammar | None = None,
) -> Grammar | None:
    """What an answer must look like; None when any text will do.

    `required`: there must be a call, of one of `tools` (for a named one: give that one alone).
    Otherwise calls may come after free text, and those of strict tools obey their schemas.
    `parallel`: more than one call may be made. `added_tokens`: ids of the tokenizer's added tokens
    by name, special or not. `thoughts`: what the model may think first; `inside_thought`: the
    prompt ends within a thought, `thinking_tokens`: after so many its end is forced. `content`:
    what the answer must match where it makes no call. Raises BadRequest when a schema cannot be
    used, or the end of a thought cannot be forced.
    """
    is_free = not required and parallel and not any(tool.strict for tool in tools)
    if is_free and thinking_tokens is None and content is None:
        return None
    writer = _Writer(form, tools, added_tokens, schemas_of_all=required)
    lines = [_start(thoughts, inside_thought, added_tokens, thinking_tokens)]
    schemas: list[tuple[str, Any]] = [(tool.name, writer.schema_of(tool)) for tool in tools]
    found = Content("")
    if content is not None and not required:
        found = content_rule(content, len(schemas), writer.unmarked if tools else "")
        lines.append(found.rule)
        schemas += found.schemas
    if tools:
        if required:
            lines += writer.required(parallel)
        else:
            lines += writer.free(parallel) if content is None else writer.or_content(parallel)
        lines += writer.call_rules()
    else:
        lines.append("answer: content" if content is not None else f"answer: /{ANY}/")
    document: dict[str, Any] = {"lark": "\n".join(lines) + "\n", "schemas": schemas}
    if found.grammar is not None:
        document["content"] = msgspec.to_builtins(found.grammar)
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"`tools` is not JSON: {error}.", param="tools") from error
    grammar = Grammar("tools", text, "tools" if tools or content is None else content.param)
    check_grammar(grammar)
    return grammar


def _start(
    thoughts: ThoughtFormat | None,
    inside: bool,
    added_tokens: Mapping[str, int],
    most: int | None,
) -> str:
    if thoughts is None:
        return "start: answer"
    begin = literal(thoughts.begin, added_tokens)
    if thoughts.end in added_tokens:
        limit = "" if most is None else f"[max_tokens={min(most, MAX_THINKING_TOKENS)}]"
        body = (
            f"thinking: thought {literal(thoughts.end, added_tokens)}\nthought{limit}: THOUGHT\n"
            f"THOUGHT: {without([pattern(thoughts.end)], '', [])}"  # nor its end letter by letter
        )
    elif most is not None:
        param = "thinking_token_budget"
        reason = f"`{param}` needs a model with a token that ends its thoughts; leave it out."
        raise BadRequest(reason, param=param)
    else:
        body = f"thinking[lazy]: /{ANY}{pattern(thoughts.end)}/"
    first = "thinking GAP" if inside else f"({begin} thinking GAP)?"
    return f"start: {first} answer\n{body}\nGAP: /[ \\n]{{0,4}}/"


def _closed(parameters: dict[str, Any]) -> dict[str, Any]:
    """A function takes the parameters it names and no others, unless its schema speaks of them.

    Where the schema has other ways to name some, or wants one that it does not name, it stays open.
    """
    named, wanted = parameters.get("properties"), parameters.get("required", [])
    if not isinstance(named, dict) or not OTHER_NAMES.isdisjoint(parameters):
        return parameters
    if not isinstance(wanted, list) or not all(name in named for name in wanted):
        return parameters
    return parameters | {"additionalProperties": False}


class _Writer:
    """Rules for one set of tools."""

    def __init__(
        self,
        form: ToolFormat,
        tools: Sequence[Tool],
        added_tokens: Mapping[str, int],
        schemas_of_all: bool,
    ) -> None:
        self._form = form
        self._tools = tools
        self._added = added_tokens
        self._schemas_of_all = schemas_of_all

    def schema_of(self, tool: Tool) -> dict[str, Any]:
        """The schema that the arguments of its calls obey."""
        if not (tool.strict or self._schemas_of_all):
            return ANY_ARGUMENTS
        if not tool.parameters:
            return NO_ARGUMENTS
        return _closed(ANY_ARGUMENTS | tool.parameters)

    def call_rules(self) -> list[str]:
        """`call`: one call of any tool, without what comes before its name."""
        shape = self._form.shape
        after = self._literal(shape.after)
        options = [
            f"{self._literal(tool.name + shape.middle)} @schema_{index} {after}"
            for index, tool in enumerate(self._tools)
        ]
        return ["call: " + "\n    | ".join(options)]

    def required(self, parallel: bool) -> list[str]:
        """`answer`: one call or more, nothing else."""
        shape = self._form.shape
        return [
            f"answer: {self._literal(shape.opening())} calls",
            *self._calls(parallel),
        ]

    def or_content(self, parallel: bool) -> list[str]:
        """`answer`: what the rule `content` says, or calls."""
        opening = self._literal(self._form.shape.opening())
        return [f"answer: content | {opening} calls", *self._calls(parallel)]

    def free(self, parallel: bool) -> list[str]:
        """`answer`: any text without calls, or with calls at its end."""
        markers = self._form.reader.markers
        opening = self._form.shape.opening()
        text = f"TEXT: {self.free_text()}"
        marker = next((marker for marker in markers if opening.startswith(marker)), None)
        if marker is None:  # calls begin at the beginning of the answer
            answer = f"answer: TEXT | {self._literal(opening)} calls"
        elif marker in self._added:
            answer = f"answer: TEXT ({self._literal(opening)} calls)?"
        else:
            rest = self._literal(opening.removeprefix(marker))
            answer = f"answer: TEXT | opened {rest} calls\nopened[lazy]: /{ANY}{pattern(marker)}/"
        return [answer, text, *self._calls(parallel)]

    @property
    def unmarked(self) -> str:
        """A terminal for texts without any marker."""
        return without([*map(pattern, self._form.reader.markers)], "", [])

    def free_text(self) -> str:
        """A terminal for texts that no reader takes for calls: a marker that is a token of its own
        must not be spelled in others either."""
        reader = self._form.reader
        names = [pattern(tool.name) for tool in self._tools] if reader.names_start else []
        return without([*map(pattern, reader.markers)], reader.line_starts, names)

    def _calls(self, parallel: bool) -> list[str]:
        """`calls`: what follows the opening of the first call."""
        shape = self._form.shape
        last = self._literal(shape.last)
        if not parallel:
            return [f"calls: call {last}"]
        between = self._literal(shape.between + shape.before)
        return [f"calls: call ({between} call){{0,{MAX_CALLS - 1}}} {last}"]

    def _literal(self, text: str) -> str:
        return literal(text, self._added, self._form.shape.after_token)
