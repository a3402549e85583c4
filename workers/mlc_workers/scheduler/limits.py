"""What the scheduler has to share out, decided at start-up, and what can never fit in it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_llm.errors import MLCError, PromptTooLong
from mlc_workers.request import Choice, Request


class Limits(Struct, frozen=True, kw_only=True):
    """Sizes of the engine, each at least 1."""

    num_pages: int
    max_num_sequence: int
    max_single_sequence_length: int
    prefill_chunk_size: int
    """Tokens that one step computes at most, decoding included."""
    prefill_mode: Literal["hybrid", "chunked"] = "hybrid"
    whole_prompts: bool = False
    """Every prompt is computed in one step, which has room for the longest."""
    max_waiting: int = 1024
    max_waiting_tokens: int = 1 << 22
    """Tokens of all prompts that wait, at most; as Python's integers they take 36 bytes each."""
    max_read_rows: int = 256
    """Rows of logits of prompts that one step gives at most, so that their memory is bounded."""

    @property
    def max_length(self) -> int:
        """Most tokens of one sequence: what the model allows and what the pool can hold alone."""
        return min(self.max_single_sequence_length, self.num_pages * PAGE_SIZE)


def refusal(request: Request, limits: Limits) -> MLCError | None:
    """Why this request can never run, or None."""
    longest = limits.max_length - 1
    if request.num_prompt_tokens <= longest:
        return None
    return PromptTooLong(
        f"the prompt has {request.num_prompt_tokens} tokens, but at most {longest} fit here and "
        "leave room for an answer; shorten the prompt",
        param="prompt",
    )


def length_limit(choice: Choice, limits: Limits) -> int:
    """Tokens, prompt included, at which a choice ends with `length`."""
    wanted = choice.request.generation.max_tokens
    if wanted < 0:
        return limits.max_length
    return min(limits.max_length, choice.request.num_prompt_tokens + wanted)
