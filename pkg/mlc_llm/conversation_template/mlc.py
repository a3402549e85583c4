"""MLC LLM's `conv_template`: role strings, separators and stop tokens, written down as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from mlc_llm.conversation_template.jinja import JinjaTemplate
from mlc_llm.conversation_template.prompt import (
    DEFAULT_OPTIONS,
    Piece,
    RenderOptions,
    Turn,
    merge,
)
from mlc_llm.errors import BadModel, BadRequest

FUNCTIONS = "{function_string}"
"""Where a template wants the tools."""
_PLACE = re.compile(r"\{(\w+)\}")
_CLOSE_THINK = "</think>"


class ConvTemplate(Struct, frozen=True, kw_only=True):
    """The fields of `conv_template` in mlc-chat-config.json that shape a prompt."""

    system_template: str = "{system_message}"
    system_message: str = ""
    system_prefix_token_ids: list[int] | None = None
    add_role_after_system_message: bool = True
    roles: dict[str, str]
    role_templates: dict[str, str] = {}
    messages: list[tuple[str, str | None]] = []
    """Turns that stand before those of the request."""
    seps: list[str]
    """One separator for all roles, or a second one for the assistant's messages."""
    role_content_sep: str = ""
    role_empty_sep: str = ""
    stop_str: list[str] = []
    stop_token_ids: list[int] = []
    strip_reasoning_in_history: bool = False


class MlcTemplate:
    """Renders by the rules that MLC LLM's engine follows, token ids of the prefix included."""

    def __init__(self, document: dict[str, Any], with_tools: JinjaTemplate | None = None) -> None:
        """`with_tools` renders what has tools in it, where these rules have no place for them.

        Raises BadModel when the document is not a conversation template.
        """
        try:
            self._rules = msgspec.convert(document, ConvTemplate)
        except msgspec.ValidationError as error:
            raise BadModel(f"conv_template in mlc-chat-config.json is wrong: {error}.") from error
        rules = self._rules
        if not 1 <= len(rules.seps) <= 2 or not {"user", "assistant"} <= rules.roles.keys():
            raise BadModel(
                "conv_template in mlc-chat-config.json needs one or two seps, and the roles "
                "user and assistant."
            )
        places = (rules.system_template, *rules.role_templates.values())
        self._has_place = any(FUNCTIONS in place for place in places)
        self._with_tools = None if self._has_place else with_tools
        self.stop_strs = tuple(text for text in rules.stop_str if text)
        # -1 stands for "none" in old files
        self.stop_token_ids = tuple(i for i in rules.stop_token_ids if i >= 0)

    @property
    def writes_tools(self) -> bool:
        """Whether it has a place for the tools of a request."""
        return self._has_place or (self._with_tools is not None and self._with_tools.writes_tools)

    @property
    def writes_calls(self) -> bool:
        """Whether it can write calls of tools and their results in the conversation so far."""
        return self._with_tools is not None and self._with_tools.writes_calls

    def render(
        self, turns: Sequence[Turn], options: RenderOptions = DEFAULT_OPTIONS
    ) -> list[Piece]:
        """The prompt. Raises BadRequest for roles that the template does not have."""
        if self._with_tools is not None and _has_tools(turns, options):
            return self._with_tools.render(turns, options)
        rules = self._rules
        message, turns = self._split_system(turns)
        history = [Turn(role=role, content=content) for role, content in rules.messages]
        turns = self._strip_reasoning([*history, *turns])
        functions = _functions(options)
        place = self._last_place(turns)
        system = _fill(
            rules.system_template,
            system_message=message,
            function_string=functions if place is None else "",
        )
        pieces: list[Piece] = [*(rules.system_prefix_token_ids or ()), system]
        for index, turn in enumerate(turns):
            bare = index == 0 and system != "" and not rules.add_role_after_system_message
            text = self._turn(turn, bare, functions if place == index else "")
            if options.continue_last and index == len(turns) - 1:
                text = text.removesuffix(rules.seps[-1])
            pieces.append(text)
        if options.begin_answer and not options.continue_last:
            pieces.append(rules.roles["assistant"] + rules.role_empty_sep)
        return merge(pieces)

    def _split_system(self, turns: Sequence[Turn]) -> tuple[str, Sequence[Turn]]:
        """The system message, a leading one or the template's own, and the rest."""
        if turns and turns[0].role in ("system", "developer"):
            return turns[0].content or "", turns[1:]
        return self._rules.system_message, turns

    def _last_place(self, turns: Sequence[Turn]) -> int | None:
        """The last turn with a place for functions; the others stay empty, as with MLC LLM."""
        templates = self._rules.role_templates
        indices = [i for i, t in enumerate(turns) if FUNCTIONS in templates.get(t.role, "")]
        return indices[-1] if indices else None

    def _turn(self, turn: Turn, bare: bool, functions: str) -> str:
        rules = self._rules
        if turn.role not in rules.roles or turn.tool_calls:
            what = "tool calls" if turn.tool_calls else f'messages of the role "{turn.role}" here'
            raise BadRequest(
                f"The model's conversation template does not have {what}.", param="messages"
            )
        if turn.content is None:
            return rules.roles[turn.role] + rules.role_empty_sep
        template = rules.role_templates.get(turn.role, f"{{{turn.role}_message}}")
        values = {f"{turn.role}_message": turn.content, "function_string": functions}
        content = _fill(template, **values)
        prefix = "" if bare else rules.roles[turn.role] + rules.role_content_sep
        return prefix + content + rules.seps[-1 if turn.role == "assistant" else 0]

    def _strip_reasoning(self, turns: list[Turn]) -> list[Turn]:
        """Drop the assistant's thoughts from before the user's last message."""
        if not self._rules.strip_reasoning_in_history:
            return turns
        last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=0)
        return [
            msgspec.structs.replace(turn, content=_after_thinking(turn.content))
            if turn.role == "assistant" and turn.content and index < last
            else turn
            for index, turn in enumerate(turns)
        ]


def _has_tools(turns: Sequence[Turn], options: RenderOptions) -> bool:
    return bool(options.tools) or any(turn.tool_calls or turn.role == "tool" for turn in turns)


def _functions(options: RenderOptions) -> str:
    """The functions as MLC LLM writes them; "" for none."""
    if not options.tools:
        return ""
    functions = [
        {name: tool["function"].get(name) for name in ("description", "name", "parameters")}
        for tool in options.tools
    ]
    return json.dumps(functions, ensure_ascii=False)


def _fill(template: str, **values: str) -> str:
    """The template with its places filled; what looks like a place inside of a value stays."""
    return _PLACE.sub(lambda place: values.get(place[1], place[0]), template)


def _after_thinking(content: str) -> str:
    if _CLOSE_THINK not in content:
        return content
    return content.rpartition(_CLOSE_THINK)[2].lstrip("\n")
