"""What the fields of a request may be: one table for web process, engine and model folders.

A field has two ranges. What is `asked` for is a request's; what is `complete` stands in the
`GenerationConfig` that the web process makes of it, and may be more: a model's folder recommends
values, and adds its own ends of an answer. The engine checks what is complete.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Meta

MAX_INTEGER = (1 << 63) - 1
"""Numbers without a limit of their own are integers of 64 bits."""

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
MAX_BIASED_TOKENS = 1024
MAX_BIAS = 100
MAX_STOP_STRINGS = 16
MAX_STOP_TOKENS = 128
MAX_MODEL_STOPS = 100
"""Strings, and tokens, that end an answer because the model's folder says so."""
MAX_BAD_WORDS = 128


class Range(NamedTuple):
    """Numbers from `low` to `high`, without `low` itself when `above`. NaN is in none."""

    low: float
    high: float
    above: bool = False

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        return low if self.high >= MAX_INTEGER else f"{low} and at most {self.high:g}"


class Bounds(NamedTuple):
    """The two ranges of one field; `asked` None: requests say it in other words."""

    complete: Range
    asked: Range | None


def _both(low: float, high: float) -> Bounds:
    return Bounds(Range(low, high), Range(low, high))


VALUES = {
    "temperature": Bounds(Range(0, 100), asked=Range(0, 2)),
    "top_p": Bounds(Range(0, 1), asked=Range(0, 1, above=True)),
    "min_p": _both(0, 1),
    "frequency_penalty": _both(-2, 2),
    "presence_penalty": _both(-2, 2),
    "repetition_penalty": _both(0.01, 100),
    "top_k": _both(-1, MAX_INTEGER),
    "n": _both(1, MAX_CHOICES),
    "max_tokens": Bounds(Range(-1, MAX_INTEGER), asked=None),
    "min_tokens": _both(0, MAX_INTEGER),
    "top_logprobs": _both(0, MAX_TOP_LOGPROBS),
    "prompt_logprobs": _both(0, MAX_TOP_LOGPROBS),
}
"""Fields of requests and of `GenerationConfig` whose value, unless it is None, lies in a range."""

LENGTHS = {
    "logit_bias": MAX_BIASED_TOKENS,
    "stop_strs": MAX_STOP_STRINGS + MAX_MODEL_STOPS,
    "stop_token_ids": MAX_STOP_TOKENS + MAX_STOP_STRINGS + 2 * MAX_MODEL_STOPS,
    "bad_words": 2 * MAX_BAD_WORDS,
}
"""How many entries fields of `GenerationConfig` have at most. A stop string may name a token, a
model and its chat template each name their ends, a bad word may be written in two ways."""


def recommended(field: str) -> Meta:
    """The range of a value in a model's folder, for the type of its field."""
    low, high, _ = VALUES[field].complete
    return Meta(ge=low, le=high)
