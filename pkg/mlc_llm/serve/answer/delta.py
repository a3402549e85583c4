"""What folding and streaming share: whose choice a delta is, its log-probabilities, the usage.

Pure. Knows the engine's messages and the response objects, nothing of sockets, queues or loops.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from mlc_llm.protocol.messages import Delta, Finished, FinishReason, TokenLogprob
from mlc_llm.protocol.responses import (
    CompletionTokensDetails,
    LogProbs,
    LogProbsContent,
    PromptTokensDetails,
    TopLogProbs,
    UsageInfo,
)
from mlc_llm.serve.answer.reading import Reading
from mlc_llm.serve.answer.text_offsets import token_text

FINISH_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.ABORT: "abort",
    FinishReason.ERROR: "error",
}
"""How a reason is called in a response."""

TOOL_CALLS = "tool_calls"
"""The reason of a choice that ended by itself and calls tools."""

ABORTED = FINISH_REASONS[FinishReason.ABORT]
"""The reason of a choice that the engine never ended: the request was given up."""


class Answer(Struct, frozen=True, kw_only=True):
    """What is the same in every object of one answer."""

    id: str
    model: str
    created: int
    """Seconds since 1970."""
    request_ids: tuple[str, ...]
    """The engine's requests behind it, one per prompt, in the order of the prompts."""
    n: int = 1
    """Choices per prompt that are generated."""
    shown: int | None = None
    """Choices per prompt that the answer shows, the likeliest ones; None: all of them."""
    echo: tuple[str, ...] = ()
    """The prompts' texts where the completion repeats them, else empty."""
    logprobs: bool = False
    prompt_logprobs: bool = False
    """Whether the answer has the prompts' log-probabilities in a list of their own."""
    include_usage: bool = False
    """Whether a stream ends with a chunk that carries the usage."""
    with_extra: bool = False
    """Whether the usage carries times and rates."""
    reading: Reading | None = None
    """How a chat's text is read for thoughts and calls; None: it is all content."""

    @property
    def num_choices(self) -> int:
        """Choices of all prompts."""
        return self.n * len(self.request_ids)

    def choices_of(self, request_id: str) -> range:
        """Indices of the choices that this engine request produces."""
        first = self.request_ids.index(request_id) * self.n
        return range(first, first + self.n)

    def choice_of(self, delta: Delta) -> int:
        """Index of the choice that the delta adds to."""
        return self.choices_of(delta.request_id)[delta.index]

    def echo_of(self, choice: int) -> str:
        """Text that stands before the generated text of a choice."""
        return self.echo[choice // self.n] if self.echo else ""


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> LogProbs:
    """OpenAI's form for chat."""
    content = [
        LogProbsContent(
            token=token_text(token.token),
            logprob=token.logprob,
            bytes=list(token.token),
            top_logprobs=[
                TopLogProbs(token=token_text(other), logprob=logprob, bytes=list(other))
                for other, logprob in token.top
            ],
        )
        for token in tokens
    ]
    return LogProbs(content=content, refusal=None)


def reason_of(reason: FinishReason, num_calls: int) -> str:
    """How an end is called in a response: by its reason, or by the calls that it came with."""
    return TOOL_CALLS if num_calls and reason is FinishReason.STOP else FINISH_REASONS[reason]


def usage_of(
    finished: Iterable[Finished], *, with_extra: bool, reasoning_tokens: int = 0
) -> UsageInfo:
    """Tokens of all prompts and choices together; times are those of the slowest prompt."""
    finished = tuple(finished)
    prompt = sum(f.prompt_tokens for f in finished)
    completion = sum(f.completion_tokens for f in finished)
    cached = sum(f.cached_tokens for f in finished)
    return UsageInfo(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
        completion_tokens_details=CompletionTokensDetails(
            reasoning_tokens=reasoning_tokens,
            accepted_prediction_tokens=0,
            rejected_prediction_tokens=0,
        ),
        extra=_extra(finished, prompt, completion, cached) if with_extra else None,
    )


def _extra(
    finished: tuple[Finished, ...], prompt: int, completion: int, cached: int
) -> dict[str, float]:
    """Times in seconds and tokens per second, by MLC LLM's names."""
    prefill_s = max((f.prefill_s for f in finished), default=0.0)
    decode_s = max((f.decode_s for f in finished), default=0.0)
    ttft_s = max((f.queue_s + f.prefill_s for f in finished), default=0.0)
    total_s = max((f.queue_s + f.prefill_s + f.decode_s for f in finished), default=0.0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prefill_tokens": prompt - cached,
        "decode_tokens": completion,
        "jump_forward_tokens": 0,
        "prefill_tokens_per_s": (prompt - cached) / prefill_s if prefill_s else 0.0,
        "decode_tokens_per_s": completion / decode_s if decode_s else 0.0,
        "end_to_end_latency_s": total_s,
        "ttft_s": ttft_s,
        "inter_token_latency_s": total_s / completion if completion else 0.0,
    }
