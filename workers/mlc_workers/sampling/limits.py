"""Whether a request can be sampled at all. The engine asks again: it does not trust the web
process.
"""

from __future__ import annotations

import numpy as np

from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.ranges import LENGTHS, MAX_BIAS, VALUES


def check_generation(config: GenerationConfig, vocab_size: int) -> str | None:
    """The first thing that is wrong, in one sentence that says what to do, or None.

    A stop id beyond the vocabulary is harmless, it can never be sampled; a negative one is a
    mistake.
    """
    for field, (allowed, _) in VALUES.items():
        value = getattr(config, field)
        if value is not None and value not in allowed:
            return f"{field} is {value}; it must be {allowed}"
    for field, most in LENGTHS.items():
        if len(getattr(config, field)) > most:
            return f"{field} has more than {most} entries; send fewer"
    for token_id, bias in config.logit_bias.items():
        if not 0 <= token_id < vocab_size:
            return (
                f"logit_bias names token {token_id}; token ids lie between 0 and {vocab_size - 1}"
            )
        if not abs(bias) <= MAX_BIAS:  # false for NaN as well
            return (
                f"logit_bias of token {token_id} is {bias}; "
                f"it must be from -{MAX_BIAS} to {MAX_BIAS}"
            )
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
