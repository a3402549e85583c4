"""A model's own Jinja chat template, with the variables that such templates expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from mlc_llm.conversation_template.budget import OutOfBudget
from mlc_llm.conversation_template.prompt import (
    DEFAULT_OPTIONS,
    Piece,
    RenderOptions,
    Turn,
    cut_after,
)
from mlc_llm.conversation_template.sandbox import TemplateRefused, compile_template
from mlc_llm.errors import BadModel, BadRequest

MAX_SOURCE_CHARACTERS = 1 << 20
_TOKEN_NAMES = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
    "additional_special_tokens",
)  # fmt: skip


class JinjaTemplate:
    """Renders messages by the template; the result is tokenized without special tokens added."""

    stop_strs: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()

    def __init__(self, source: str, tokenizer_config: Mapping[str, Any]) -> None:
        """Raises BadModel when the template cannot be compiled."""
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise BadModel("The model's chat template is longer than 1 MiB.")
        try:
            self._render = compile_template(source)
        except (jinja2.TemplateError, SyntaxError, RecursionError, MemoryError) as error:
            raise BadModel(f"The model's chat template cannot be compiled: {error}.") from error
        self._tokens = special_tokens(tokenizer_config)
        self._knows_developer = "developer" in source

    def render(
        self, turns: Sequence[Turn], options: RenderOptions = DEFAULT_OPTIONS
    ) -> list[Piece]:
        """The prompt as one text. Raises BadRequest when the template refuses the messages."""
        messages = [_message(turn) for turn in turns]
        if not self._knows_developer:
            for message in messages:
                if message["role"] == "developer":
                    message["role"] = "system"
        try:
            text = self._render(
                {
                    **options.variables,
                    **self._tokens,
                    "messages": messages,
                    "tools": None,
                    "documents": None,
                    "add_generation_prompt": options.begin_answer and not options.continue_last,
                }
            )
        except TemplateRefused as error:
            reason = f"The model's chat template refuses the messages: {error}"
            raise BadRequest(reason, param="messages") from error
        except OutOfBudget as error:
            reason = "The model's chat template takes too long or grows too large on the messages."
            raise BadRequest(reason, param="messages") from error
        except Exception as error:  # a template may raise anything Python's expressions can
            reason = f"The model's chat template fails on the messages: {error}."
            raise BadRequest(reason, param="messages") from error
        if options.continue_last:
            text = cut_after(text, turns[-1].content or "")
        return [text] if text else []


def special_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, Any]:
    """The named special tokens that are set, as text."""
    found: dict[str, Any] = {}
    for name in _TOKEN_NAMES:
        value = tokenizer_config.get(name)
        if isinstance(value, Mapping):
            value = value.get("content")
        if value:
            found[name] = value
    return found


def _message(turn: Turn) -> dict[str, Any]:
    """The message as OpenAI writes it; absent keys stay absent, templates ask for them."""
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.name is not None:
        message["name"] = turn.name
    if turn.tool_call_id is not None:
        message["tool_call_id"] = turn.tool_call_id
    if turn.tool_calls:
        message["tool_calls"] = [
            {
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
                **({} if call.id is None else {"id": call.id}),
            }
            for call in turn.tool_calls
        ]
    return message
