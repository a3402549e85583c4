"""MLC LLM's `conv_template`: role strings, separators and stop tokens, written down as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from mlc_llm.conversation_template.prompt import (
    DEFAULT_OPTIONS,
    Piece,
    RenderOptions,
    Turn,
    merge,
)
from mlc_llm.errors import BadModel, BadRequest

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

    def __init__(self, document: dict[str, Any]) -> None:
        """Raises BadModel when the document is not a conversation template."""
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
        self.stop_strs = tuple(text for text in rules.stop_str if text)
        # -1 stands for "none" in old files
        self.stop_token_ids = tuple(i for i in rules.stop_token_ids if i >= 0)

    def render(
        self, turns: Sequence[Turn], options: RenderOptions = DEFAULT_OPTIONS
    ) -> list[Piece]:
        """The prompt. Raises BadRequest for roles that the template does not have."""
        rules = self._rules
        system, turns = self._split_system(turns)
        history = [Turn(role=role, content=content) for role, content in rules.messages]
        turns = self._strip_reasoning([*history, *turns])
        pieces: list[Piece] = [*(rules.system_prefix_token_ids or ()), system]
        for index, turn in enumerate(turns):
            bare = index == 0 and system != "" and not rules.add_role_after_system_message
            text = self._turn(turn, bare)
            if options.continue_last and index == len(turns) - 1:
                text = text.removesuffix(rules.seps[-1])
            pieces.append(text)
        if options.begin_answer and not options.continue_last:
            pieces.append(rules.roles["assistant"] + rules.role_empty_sep)
        return merge(pieces)

    def _split_system(self, turns: Sequence[Turn]) -> tuple[str, Sequence[Turn]]:
        """The system text, by a leading system message or the template's own, and the rest."""
        message = self._rules.system_message
        if turns and turns[0].role in ("system", "developer"):
            message = turns[0].content or ""
            turns = turns[1:]
        template = self._rules.system_template.replace("{function_string}", "")
        return template.replace("{system_message}", message), turns

    def _turn(self, turn: Turn, bare: bool) -> str:
        rules = self._rules
        if turn.role not in rules.roles or turn.tool_calls:
            what = "tool calls" if turn.tool_calls else f'messages of the role "{turn.role}" here'
            raise BadRequest(
                f"The model's conversation template does not have {what}.", param="messages"
            )
        if turn.content is None:
            return rules.roles[turn.role] + rules.role_empty_sep
        place = f"{{{turn.role}_message}}"
        template = rules.role_templates.get(turn.role, place).replace("{function_string}", "")
        content = template.replace(place, turn.content)
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


def _after_thinking(content: str) -> str:
    if _CLOSE_THINK not in content:
        return content
    return content.rpartition(_CLOSE_THINK)[2].lstrip("\n")
