"""Vectors of a real decoder through the openai package, against the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from support.oracle import Oracle
from support.reference_text import open_oracle
from support.server import Server

TEXTS = ["Once upon a time, there was a", "The dog"]


@pytest.fixture
def embedder(stories: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=stories.base_url, api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def states(stories_folder: Path) -> Oracle:
    """An oracle whose logits are hidden states, as its head is the identity."""
    oracle = open_oracle(stories_folder)
    arch = replace(oracle.arch, tie_word_embeddings=False)
    return Oracle(arch, {**oracle.weights, "lm_head.weight": np.eye(arch.hidden_size)})


def unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vector / np.linalg.norm(vector))


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_vectors_are_the_oracles(embedder: openai.OpenAI, states: Oracle, pooling: str) -> None:
    prompts = [[1, 403, 407, 261, 378, 432, 383, 286], [1, 403] * 40]
    for _ in range(2):  # the second time the beginnings are in the prefix cache
        found = embedder.embeddings.create(
            model="stories260K-hf", input=prompts, extra_body={"pooling": pooling}
        )
        for entry, tokens in zip(found.data, prompts, strict=True):
            rows = states.logits(tokens)
            expected = unit(rows[-1] if pooling == "last" else rows.mean(axis=0))
            np.testing.assert_allclose(entry.embedding, expected, atol=1e-4)
    assert found.usage.prompt_tokens == found.usage.total_tokens == 88


def test_base64_is_the_same_as_floats_and_dimensions_cut(embedder: openai.OpenAI) -> None:
    def embed(**options: object) -> list[list[float]]:
        found = embedder.embeddings.create(model="stories260K-hf", input=TEXTS, **options)  # type: ignore[call-overload]
        return [entry.embedding for entry in found.data]

    floats = embed(encoding_format="float")
    np.testing.assert_allclose(embed(), floats, atol=1e-6)  # the package asks for base64
    np.testing.assert_allclose(np.linalg.norm(floats, axis=1), 1, atol=1e-5)
    short = embed(dimensions=8)
    np.testing.assert_allclose(short, [unit(np.array(v[:8])) for v in floats], atol=1e-5)


def test_many_texts_are_embedded_at_once(embedder: openai.OpenAI) -> None:
    texts = [f"Story number {i}" for i in range(600)]
    found = embedder.embeddings.create(model="stories260K-hf", input=texts)
    assert [entry.index for entry in found.data] == list(range(600))
    alone = embedder.embeddings.create(model="stories260K-hf", input=texts[599])
    assert alone.data[0].embedding == found.data[599].embedding


def test_a_wrong_field_is_named(embedder: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        embedder.embeddings.create(model="stories260K-hf", input=TEXTS, dimensions=10**6)
    assert caught.value.param == "dimensions"
