"""Sampling as it is defined, in float64 and with full sorts: the oracle of the sampler's tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlc_llm.protocol.generation import GenerationConfig

Logits = NDArray[np.float64]


def softmax(logits: Logits, temperature: float = 1.0) -> Logits:
    """Probabilities."""
    weights = np.exp((logits - logits.max()) / temperature)
    return np.asarray(weights / weights.sum())


def adjusted(logits: Logits, config: GenerationConfig, generated: list[int]) -> Logits:
    """Bias, penalties and masked end tokens, one token at a time."""
    logits = logits.copy()
    for token_id, bias in config.logit_bias.items():
        logits[token_id] += bias
    for token_id in set(generated):
        count = generated.count(token_id)
        logits[token_id] -= config.presence_penalty + count * config.frequency_penalty
        if logits[token_id] < 0:
            logits[token_id] *= config.repetition_penalty
        else:
            logits[token_id] /= config.repetition_penalty
    if len(generated) < config.min_tokens:
        logits[list(config.stop_token_ids)] = -np.inf
    return logits


def ranking(logits: Logits) -> list[int]:
    """Ids, the likeliest first, of equal ones the lower first."""
    return sorted(range(len(logits)), key=lambda i: (-logits[i], i))


def num_kept(logits: Logits, config: GenerationConfig, slack: float) -> int:
    """How many tokens of `ranking` the filters leave, with top_p and min_p moved by `slack`."""
    order = ranking(logits)
    if config.top_k > 0:
        order = order[: config.top_k]
    kept = softmax(logits[order], config.temperature)
    count = len(order)
    if config.top_p < 1:
        count, mass = 1, kept[0]
        while mass < config.top_p + slack and count < len(order):
            mass += kept[count]
            count += 1
    likely = int((kept >= (config.min_p - slack) * kept[0]).sum())
    return min(count, likely)
