"""A model's own Jinja chat template, with the variables that such templates expect."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from mlc_llm.conversation_template.budget import OutOfBudget
from mlc_llm.conversation_template.prompt import (
    DEFAULT_OPTIONS,
    DoesNotFit,
    Piece,
    RenderOptions,
    Turn,
    TurnCall,
    cut_after,
)
from mlc_llm.conversation_template.sandbox import TemplateRefused, compile_template
from mlc_llm.errors import BadModel, BadRequest
from mlc_llm.tools.formats import has_place_for_tools

MAX_SOURCE_CHARACTERS = 1 << 20
SHORT_ID = 9
_SHORT_IDS = re.compile(rf"length\s*!=\s*{SHORT_ID}\b")
"""Some templates take no ids of calls but those of nine letters and digits."""
_TOOLS_IN_SYSTEM = re.compile(r"message(\.tools\b|\[['\"]tools['\"]\])")
_TOKEN_NAMES = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
    "additional_special_tokens",
)  # fmt: skip


class JinjaTemplate:
    """Renders messages by the template; the result is tokenized without special tokens added."""

    stop_strs: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()

    def __init__(
        self, source: str, tokenizer_config: Mapping[str, Any], tool_use: str | None = None
    ) -> None:
        """`tool_use` is the template for requests with tools, of models that have one of its own.

        Raises BadModel when a template cannot be compiled.
        """
        self._tokens = special_tokens(tokenizer_config)
        self._plain = _Source(source, self._tokens)
        self._tool_use = self._plain if tool_use is None else _Source(tool_use, self._tokens)

    @property
    def writes_tools(self) -> bool:
        """Whether it has a place for the tools of a request."""
        return self._tool_use.writes_tools

    @property
    def writes_calls(self) -> bool:
        """Whether it can write calls of tools and their results in the conversation so far."""
        return self._tool_use.writes_calls

    def render(
        self, turns: Sequence[Turn], options: RenderOptions = DEFAULT_OPTIONS
    ) -> list[Piece]:
        """The prompt as one text. Raises BadRequest when the template refuses the messages."""
        has_calls = any(turn.tool_calls or turn.role == "tool" for turn in turns)
        needs_more = has_calls and not self._plain.writes_calls
        source = self._tool_use if options.tools or needs_more else self._plain
        variables = {
            **options.variables,
            **self._tokens,
            "documents": list(options.documents) or None,
            "add_generation_prompt": options.begin_answer and not options.continue_last,
        }
        text = source.render(turns, variables, options.tools)
        if options.continue_last:
            text = cut_after(text, turns[-1].content or "")
        return [text] if text else []


class _Source:
    """One template and what it expects of messages."""

    def __init__(self, source: str, tokens: Mapping[str, Any]) -> None:
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise BadModel("The model's chat template is longer than 1 MiB.")
        try:
            self._render = compile_template(source)
        except (jinja2.TemplateError, SyntaxError, RecursionError, MemoryError) as error:
            raise BadModel(f"The model's chat template cannot be compiled: {error}.") from error
        self._tokens = tokens
        self._knows_developer = "developer" in source
        self._has_short_ids = _SHORT_IDS.search(source) is not None
        self._tools_in_system = _TOOLS_IN_SYSTEM.search(source) is not None
        self._arguments_as_text: bool | None = None
        self.writes_tools = self._tools_in_system or has_place_for_tools(source)
        self.writes_calls = "tool_calls" in source

    def render(
        self,
        turns: Sequence[Turn],
        variables: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]],
    ) -> str:
        """The prompt. Raises BadRequest."""
        as_text = any(turn.tool_calls for turn in turns) and self._wants_text()
        messages = [self._message(turn, as_text) for turn in turns]
        if tools and self._tools_in_system:
            messages = _with_tools(messages, tools)
        shown = [dict(tool) for tool in tools] or None
        try:
            return self._render({**variables, "messages": messages, "tools": shown})
        except TemplateRefused as error:
            reason = f"The model's chat template refuses the messages: {error}"
            raise DoesNotFit(reason, param="messages") from error
        except OutOfBudget as error:
            reason = "The model's chat template takes too long or grows too large on the messages."
            raise BadRequest(reason, param="messages") from error
        except Exception as error:  # a template may raise anything Python's expressions can
            reason = f"The model's chat template fails on the messages: {error}."
            raise DoesNotFit(reason, param="messages") from error

    def _message(self, turn: Turn, as_text: bool) -> dict[str, Any]:
        message = message_of(turn, as_text=as_text)
        if message["role"] == "developer" and not self._knows_developer:
            message["role"] = "system"
        if self._has_short_ids:
            for called in message.get("tool_calls", [message]):
                name = "tool_call_id" if called is message else "id"
                if name in called:
                    called[name] = short_id(called[name])
        return message

    def _wants_text(self) -> bool:
        """Whether it joins the arguments of calls to its text as they are; found out by trying."""
        if self._arguments_as_text is None:
            self._arguments_as_text = self._writes_badly(False) and not self._writes_badly(True)
        return self._arguments_as_text

    def _writes_badly(self, as_text: bool) -> bool:
        """Whether a call's arguments do not come out as JSON."""
        messages = [self._message(turn, as_text) for turn in PROBE]
        given = {**self._tokens, "messages": messages, "tools": None, "documents": None}
        try:
            text = self._render({**given, "add_generation_prompt": True})
        except Exception:  # a template may raise anything Python's expressions can
            return True
        return "{'probe'" in text or '"{\\"probe' in text


PROBE = (
    Turn(role="user", content="Probe."),
    Turn(role="assistant", content="", tool_calls=(TurnCall("probe", {"probe": 1}, "probe1234"),)),
    Turn(role="tool", content="1", name="probe", tool_call_id="probe1234"),
)


def short_id(call_id: str) -> str:
    """The id as nine letters and digits, always the same for the same id."""
    if len(call_id) == SHORT_ID and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:SHORT_ID]


def _with_tools(
    messages: Sequence[dict[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The tools as JSON in the system message, where such a template looks for them."""
    functions = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "tools": functions}, *messages[1:]]
    return [{"role": "system", "content": "", "tools": functions}, *messages]


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


def message_of(turn: Turn, *, as_text: bool = False) -> dict[str, Any]:
    """The message as OpenAI writes it; absent keys stay absent, templates ask for them.

    `as_text`: the arguments of calls as JSON, not as objects.
    """
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.name is not None:
        message["name"] = turn.name
    if turn.reasoning is not None:
        message["reasoning_content"] = turn.reasoning
    if turn.tool_call_id is not None:
        message["tool_call_id"] = turn.tool_call_id
    if turn.tool_calls:
        message["tool_calls"] = [_call(call, as_text) for call in turn.tool_calls]
    return message


def _call(call: TurnCall, as_text: bool) -> dict[str, Any]:
    arguments = call.arguments
    if as_text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    function = {"name": call.name, "arguments": arguments}
    return {
        "type": "function",
        "function": function,
        **({} if call.id is None else {"id": call.id}),
    }
