"""Tokens that a request allows or forbids."""

from __future__ import annotations

import numpy as np
import pytest

from mlc_llm.protocol.generation import GenerationConfig
from mlc_workers.sampling.limits import check_generation
from mlc_workers.sampling.sampler import NumpySampler, Pick

VOCAB = 8
RISING = np.arange(VOCAB, dtype=np.float32)


def ids(*tokens: int) -> bytes:
    """Token ids as they travel."""
    return np.array(tokens, "<i4").tobytes()


def generated(config: GenerationConfig, num_tokens: int) -> list[int]:
    """The tokens of rows that are all alike, the highest id the likeliest."""
    sampler = NumpySampler(VOCAB)
    memory = sampler.open(config, 0)
    tokens = []
    for _ in range(num_tokens):
        (pick,) = sampler.sample(RISING[None], [memory])
        assert isinstance(pick, Pick)
        tokens.append(pick.token_id)
    return tokens


def test_only_allowed_tokens_are_sampled() -> None:
    assert generated(GenerationConfig(temperature=0, allowed_token_ids=ids(1, 3)), 2) == [3, 3]
    hot = GenerationConfig(temperature=2.0, seed=1, allowed_token_ids=ids(1, 3))
    assert set(generated(hot, 50)) == {1, 3}


def test_a_bad_word_is_broken_at_its_last_token() -> None:
    config = GenerationConfig(temperature=0, bad_words=((7, 7, 6), (7, 7, 7)))
    assert generated(config, 6) == [7, 7, 5, 7, 7, 5]
    assert generated(GenerationConfig(temperature=0, bad_words=((7,),)), 2) == [6, 6]


def test_some_token_is_always_left() -> None:
    alone = GenerationConfig(temperature=0, allowed_token_ids=ids(2), bad_words=((2,),))
    assert generated(alone, 2) == [2, 2]
    ends = GenerationConfig(
        temperature=0, allowed_token_ids=ids(2), min_tokens=5, stop_token_ids=(2,)
    )
    assert generated(ends, 1) == [2]


def test_end_tokens_are_held_back_among_the_allowed() -> None:
    config = GenerationConfig(
        temperature=0, allowed_token_ids=ids(1, 2), min_tokens=1, stop_token_ids=(2,)
    )
    assert generated(config, 2) == [1, 2]


@pytest.mark.parametrize(
    "config",
    [
        GenerationConfig(allowed_token_ids=ids(VOCAB)),
        GenerationConfig(allowed_token_ids=ids(-1)),
        GenerationConfig(allowed_token_ids=b"123"),
        GenerationConfig(bad_words=((1, VOCAB),)),
        GenerationConfig(bad_words=((),)),
        GenerationConfig(bad_words=((1,),) * 257),
    ],
)
def test_the_engine_checks_the_ids_again(config: GenerationConfig) -> None:
    assert check_generation(config, VOCAB) is not None
