"""Whether a request can be sampled at all. The engine asks again: it does not trust the web
process.
"""

from __future__ import annotations

import math

import numpy as np

from mlc_llm.protocol.generation import GenerationConfig

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIAS = 100.0
MAX_BIASED_TOKENS = 4096
MAX_STOPS = 256
MAX_BAD_WORDS = 256
"""Each word of a request may be written in two ways."""


def check_generation(config: GenerationConfig, vocab_size: int) -> str | None:
    """The first thing that is wrong, in one sentence that says what to do, or None.

    A stop id beyond the vocabulary is harmless, it can never be sampled; a negative one is a
    mistake.
    """
    for name, value, least, most in _ranges(config):
        if not least <= value <= most:  # false for NaN as well
            return f"{name} is {value}; choose a value between {least:g} and {most:g}"
    for token_id, bias in config.logit_bias.items():
        if not 0 <= token_id < vocab_size:
            return (
                f"logit_bias names token {token_id}; token ids lie between 0 and {vocab_size - 1}"
            )
        if not abs(bias) <= MAX_LOGIT_BIAS:
            return f"logit_bias of token {token_id} is {bias}; choose a value between -100 and 100"
    if any(token_id < 0 for token_id in config.stop_token_ids):
        return "stop_token_ids has a negative id; use the ids of the model's tokenizer"
    if len(config.allowed_token_ids) % 4:
        return "allowed_token_ids is cut in the middle of a token"
    allowed = np.frombuffer(config.allowed_token_ids, "<i4").tolist()
    named = [*allowed, *(token_id for word in config.bad_words for token_id in word)]
    if named and not 0 <= min(named) <= max(named) < vocab_size:
        return (
            "allowed_token_ids or bad_words names a token that does not exist; token ids lie "
            f"between 0 and {vocab_size - 1}"
        )
    if not all(config.bad_words):
        return "bad_words holds an empty word; leave it out"
    if config.pooling is not None and (config.max_tokens != 0 or config.n != 1):
        return "pooling generates nothing; set max_tokens to 0 and n to 1"
    if config.top_logprobs and not config.logprobs:
        return "top_logprobs needs logprobs; set logprobs to true"
    return None


def _ranges(config: GenerationConfig) -> tuple[tuple[str, float, float, float], ...]:
    return (
        ("n", config.n, 1, MAX_CHOICES),
        ("max_tokens", config.max_tokens, -1, math.inf),
        ("min_tokens", config.min_tokens, 0, math.inf),
        ("temperature", config.temperature, 0, 100),
        ("top_p", config.top_p, 0, 1),
        ("top_k", config.top_k, -1, math.inf),
        ("min_p", config.min_p, 0, 1),
        ("frequency_penalty", config.frequency_penalty, -2, 2),
        ("presence_penalty", config.presence_penalty, -2, 2),
        ("repetition_penalty", config.repetition_penalty, 0.01, 100),
        ("prompt_logprobs", config.prompt_logprobs or 0, 0, MAX_TOP_LOGPROBS),
        ("top_logprobs", config.top_logprobs, 0, MAX_TOP_LOGPROBS),
        ("the number of biased tokens", len(config.logit_bias), 0, MAX_BIASED_TOKENS),
        ("the number of stop tokens", len(config.stop_token_ids), 0, MAX_STOPS),
        ("the number of bad words", len(config.bad_words), 0, MAX_BAD_WORDS),
        ("the number of stop strings", len(config.stop_strs), 0, MAX_STOPS),
    )
