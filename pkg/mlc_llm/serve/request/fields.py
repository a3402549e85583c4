"""Fields that concern one endpoint, or the prompt rather than the sampling: checked and read.

Pure; see `serve.validate` for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlc_llm.conversation_template.prompt import RenderOptions
from mlc_llm.errors import BadRequest
from mlc_llm.protocol.ranges import MAX_CHOICES, MAX_INTEGER
from mlc_llm.protocol.requests import ChatCompletionRequest, CompletionRequest

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""OpenAI's words for how much to think."""
RESERVED_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""Variables of a chat template that have request fields of their own, or none."""

FILL_IN_MIDDLE = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
)
"""Tokens that stand before the text, between it and its suffix, and at the end: those of Qwen and
CodeGemma, StarCoder, DeepSeek and Code Llama."""


def check_text_only(request: ChatCompletionRequest) -> None:
    """Refuse what needs sound, the web, or the names tools had once. Raises BadRequest."""
    if request.modalities not in (None, ["text"]):
        raise BadRequest('`modalities` must be ["text"].', param="modalities")
    for field in ("audio", "web_search_options", "chat_template"):
        if getattr(request, field) is not None:
            raise BadRequest(f"`{field}` is not supported here; leave it out.", param=field)
    if request.functions:
        reason = "`functions` has been replaced by `tools`; send them there."
        raise BadRequest(reason, param="functions")
    if request.function_call not in (None, "none", "auto"):
        reason = "`function_call` has been replaced by `tool_choice`; send it there."
        raise BadRequest(reason, param="function_call")


def check_thinking(request: ChatCompletionRequest) -> None:
    """How much to think must be said in known words. Raises BadRequest."""
    effort, budget = request.reasoning_effort, request.thinking_token_budget
    if effort is not None and effort not in EFFORTS:
        reason = f"`reasoning_effort` must be one of {', '.join(EFFORTS)}."
        raise BadRequest(reason, param="reasoning_effort")
    if budget is not None and not 0 <= budget <= MAX_INTEGER:
        reason = "`thinking_token_budget` must be at least 0 and an integer of 64 bits."
        raise BadRequest(reason, param="thinking_token_budget")


def _thinking_variables(request: ChatCompletionRequest) -> dict[str, object]:
    """The switches that templates have for thinking."""
    effort = request.reasoning_effort
    if effort is None:
        return {}
    thinks = effort != "none"
    return {"reasoning_effort": effort, "enable_thinking": thinks, "thinking": thinks}


def render_options(request: ChatCompletionRequest) -> RenderOptions:
    """How the prompt ends. Raises BadRequest for endings that contradict each other."""
    continues = bool(request.continue_final_message)
    if continues and request.add_generation_prompt:
        reason = "`continue_final_message` and `add_generation_prompt` exclude each other."
        raise BadRequest(reason, param="continue_final_message")
    last = request.messages[-1]
    if continues and (last.role != "assistant" or not last.content or last.tool_calls):
        reason = "`continue_final_message` needs a last message of the assistant, with a text."
        raise BadRequest(reason, param="continue_final_message")
    variables = request.chat_template_kwargs or {}
    for name in variables:
        if name in RESERVED_VARIABLES:
            reason = f"`chat_template_kwargs` must not have `{name}`."
            raise BadRequest(reason, param="chat_template_kwargs")
    return RenderOptions(
        begin_answer=request.add_generation_prompt is not False,
        continue_last=continues,
        variables={**_thinking_variables(request), **variables},
        documents=request.documents or (),
    )


def goes_on(request: ChatCompletionRequest | CompletionRequest) -> bool:
    """Whether the answer goes on from a text that is there, rather than being a new message."""
    return isinstance(request, CompletionRequest) or bool(request.continue_final_message)


def num_candidates(request: ChatCompletionRequest | CompletionRequest) -> int:
    """Choices to generate per prompt, of which `n` are shown. Raises BadRequest."""
    n = 1 if request.n is None else request.n
    if isinstance(request, ChatCompletionRequest) or request.best_of is None:
        return n
    if not n <= request.best_of <= MAX_CHOICES:
        reason = f"`best_of` must be at least `n`, which is {n} here, and at most {MAX_CHOICES}."
        raise BadRequest(reason, param="best_of")
    if request.stream and request.best_of > n:
        reason = "`best_of` above `n` cannot be streamed: all choices must be known first."
        raise BadRequest(reason, param="best_of")
    return request.best_of


def truncated(ids: Sequence[int], keep: int | None, room: int) -> Sequence[int]:
    """The end of the prompt that `truncate_prompt_tokens` leaves; -1 leaves what fits in `room`.

    Raises BadRequest.
    """
    if keep is None:
        return ids
    if keep != -1 and keep < 1:
        reason = "`truncate_prompt_tokens` must be at least 1, or -1 for as many as fit."
        raise BadRequest(reason, param="truncate_prompt_tokens")
    return ids[-(room if keep == -1 else keep) :]


def with_suffix(
    prefix: Sequence[int], suffix: Sequence[int], tokens: Mapping[str, int]
) -> list[int]:
    """The prompt that asks a model for what stands between `prefix` and `suffix`.

    `tokens` are the special tokens of the tokenizer. Raises BadRequest when the model was not
    trained to fill in.
    """
    for names in FILL_IN_MIDDLE:
        if all(name in tokens for name in names):
            begin, hole, end = (tokens[name] for name in names)
            return [begin, *prefix, hole, *suffix, end]
    reason = "`suffix` needs a model that was trained to fill in the middle; leave it out."
    raise BadRequest(reason, param="suffix")
