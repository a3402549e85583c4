"""The whole compiled `step` against the float64 oracle, in every way a batch can be mixed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from kernels.device import LEVELS
from mlc_llm.kernels.cpu.closest import can_search
from mlc_llm.kernels.cpu.level import Level, detect
from mlc_llm.models.architecture import Experts, Latent, RopeScaling
from mlc_llm.quantization.search import quantize_closest
from mlc_workers.scheduler.plan import Span
from support.oracle import Oracle
from support.small_models import SmallModel, architecture, library, span

LLAMA3 = RopeScaling(8.0, 1.0, 4.0, 64)
NARROW = architecture()
MODELS = {
    "narrow heads, tied": (NARROW, "q0f32", 1e-4),
    "heads of 16, untied, scaled rope": (
        architecture(
            head_dim=16, num_attention_heads=6, num_key_value_heads=2, hidden_size=80,
            intermediate_size=90, vocab_size=131, tie_word_embeddings=False, rope_scaling=LLAMA3,
        ),
        "q0f32", 1e-4,
    ),
    "heads of 64, one KV head": (
        architecture(
            head_dim=64, num_attention_heads=3, num_key_value_heads=1, hidden_size=192,
            intermediate_size=320, num_hidden_layers=2,
        ),
        "q0f32", 1e-4,
    ),
    "float16": (NARROW, "q0f16", 2e-2),
    "4 bits": (NARROW, "q4f16_1", 0.2),
    "8 bits, experts in a layer": (
        architecture(experts=Experts(count=4, per_token=4, intermediate_size=40, layers=(1,))),
        "q8f16_1", 0.2,
    ),
    "4 bits, keys and values in 8": (NARROW, "q4f16_1", 0.2, "int8"),
    "float32, keys and values in 8": (
        architecture(head_dim=48, num_attention_heads=6, num_key_value_heads=2, hidden_size=80),
        "q0f32", 0.15, "int8",
    ),
    "4 bits, tables in 16": (NARROW, "q4f16_2", 0.2),
    "4 bits, layer norms, biases, positions learned, plain MLP": (
        architecture(
            norm="layer", norm_bias=True, qkv_bias=True, out_bias=True, mlp_bias=True, gated=False,
            activation="gelu", learned_positions=True, parallel=True,
        ),
        "q4f16_1", 0.3,
    ),
    "4 bits, norms around, windows, caps, part of a head turned": (
        architecture(
            norms="around", qk_norm="head", head_dim=16, rotary_dim=12, sliding_window=20,
            sliding_layers=(0, 2), sliding_rope_theta=500.0, attention_softcap=4.0,
            logit_softcap=6.0, activation="gelu_tanh", embedding_scale=8.0, attention_scale=0.3,
        ),
        "q4f16_1", 0.3,
    ),
    "4 bits, experts and an MLP beside them, attention over latents": (
        architecture(
            head_dim=32, rotary_dim=16, num_key_value_heads=1, latent=Latent(
                rank=32, rope_dim=16, nope_dim=16, value_dim=16, query_rank=40,
            ), experts=Experts(
                count=4, per_token=4, intermediate_size=40, layers=(1, 2), normalise=True,
                scale=1.5, shared_size=72,
            ),
        ),
        "q4f16_1", 0.3,
    ),
    "float16, norms after, whole rows of queries normalised": (
        architecture(norms="after", qk_norm="row"), "q0f16", 2e-2,
    ),
}  # fmt: skip
"""Model, scheme, largest difference of a logit, K and V. With 4 bits activations are rounded to 8
bits; so the model with experts takes all of them: at a tie another choice is no wrong one."""


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS.keys())
def case(request: pytest.FixtureRequest) -> tuple[SmallModel, float]:
    arch, quantization, tolerance, *kv_dtype = request.param
    return SmallModel(arch, quantization, 0, *kv_dtype), tolerance


def tokens_of(model: SmallModel, count: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, model.oracle.arch.vocab_size, count).tolist()


def close(found: NDArray[Any], model: SmallModel, sequences: list[list[int]], tol: float) -> None:
    """Each row of logits is the oracle's after the last token of its sequence."""
    expected = np.stack([model.oracle.logits(sequence)[-1] for sequence in sequences])
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=tol)


def test_prefill_chunks_and_decode_match_the_oracle(case: tuple[SmallModel, float]) -> None:
    model, tol = case
    a, b, c = (tokens_of(model, n, n) for n in (5, 37, 150))
    close(model.run(span(0, 0, a), span(1, 0, b)), model, [a, b], tol)
    assert model.run(span(2, 0, c[:100], sample=False)).shape[0] == 0
    close(model.run(span(2, 100, c[100:])), model, [c], tol)
    for step in range(3):
        more = tokens_of(model, 3, 100 + step)
        starts = [len(a), len(b), len(c)]
        for sequence, token in zip((a, b, c), more, strict=True):
            sequence.append(token)
        spans = [span(row, starts[row], [more[row]]) for row in range(3)]
        close(model.run(*spans), model, [a, b, c], tol)


@pytest.mark.parametrize("level", LEVELS)
def test_a_step_of_every_level_matches_the_oracle(level: Level) -> None:
    heads = architecture(head_dim=32, num_attention_heads=4, num_key_value_heads=2)
    model = SmallModel(heads, "q4f16_1", level=level)
    a, b = (tokens_of(model, n, n) for n in (21, 70))
    close(model.run(span(0, 0, a), span(1, 0, b)), model, [a, b], 0.2)
    a, b = [*a, 3], [*b, 4]
    close(model.run(span(0, 21, [3]), span(1, 70, [4])), model, [a, b], 0.2)


def test_a_batch_may_mix_decodes_with_chunks_of_prompts(case: tuple[SmallModel, float]) -> None:
    model, tol = case
    a, b, c = (tokens_of(model, n, n) for n in (20, 45, 61))
    model.run(span(3, 0, a[:-1]), span(4, 0, b[:30]))
    logits = model.run(span(3, 19, a[-1:]), span(4, 30, b[30:]), span(5, 0, c[:17], sample=False))
    close(logits, model, [a, b], tol)
    close(model.run(span(5, 17, c[17:])), model, [c], tol)


def test_a_fork_shares_pages_and_copies_the_one_it_writes(case: tuple[SmallModel, float]) -> None:
    model, tol = case
    a = tokens_of(model, 40, 7)
    model.run(span(6, 0, a))
    own = int(model.table[7, 2])
    model.table[7, :2] = model.table[6, :2]
    b, more = a[:36], tokens_of(model, 5, 8)
    copies = [(int(model.table[6, 2]), own)]
    logits = model.run(span(7, 36, more), span(6, 40, more[:1]), copies=copies)
    close(logits, model, [b + more, [*a, more[0]]], tol)


def test_logits_are_bitwise_the_same_alone_in_a_batch_and_in_chunks(
    case: tuple[SmallModel, float],
) -> None:
    model, _ = case
    sequences = [tokens_of(model, n, n) for n in (3, 17, 150, 33, 64)]
    alone = [model.run(span(0, 0, sequence))[0] for sequence in sequences]
    together = model.run(*(span(row, 0, sequence) for row, sequence in enumerate(sequences)))
    np.testing.assert_array_equal(together, alone)
    longest = sequences[2]
    for cuts in ((0, 1, 2, 149, 150), (0, 127, 129, 150), (0, 64, 128, 150)):
        for start, stop in pairwise(cuts):
            filler = span(1, 0, sequences[1])
            last = model.run(filler, span(2, start, longest[start:stop]))[1]
        np.testing.assert_array_equal(last, alone[2])


def test_more_rows_than_fit_are_refused_before_anything_is_written() -> None:
    model = SmallModel(NARROW, "q0f32")
    with pytest.raises(ValueError, match="2049 tokens exceeds"):
        model.run(span(0, 0, [1] * 2049))


def test_the_logits_of_every_token_of_a_prompt_may_be_read(case: tuple[SmallModel, float]) -> None:
    model, tol = case
    a, b = tokens_of(model, 50, 1), tokens_of(model, 9, 2)
    whole, expected = model.oracle.logits(a), model.oracle.logits(b)[-1:]
    first = model.run(Span(0, 0, a[:30], False, 4, 26), span(1, 0, b))
    np.testing.assert_allclose(first, np.concatenate([whole[4:30], expected]), rtol=0, atol=tol)
    rest = model.run(Span(0, 30, a[30:], True, 0, 19))
    np.testing.assert_allclose(rest, whole[30:], rtol=0, atol=tol)


def test_hidden_states_are_the_oracles(case: tuple[SmallModel, float]) -> None:
    model, tol = case
    a, b = tokens_of(model, 40, 5), tokens_of(model, 20, 6)
    logits = model.run(Span(0, 0, a, False, 30, 10, pooled=True), span(1, 0, b))
    close(logits, model, [b], tol)
    # with the identity for a head, the logits are what the head reads
    arch = model.arch
    whole = replace(arch, tie_word_embeddings=False, logit_softcap=None)
    weights = {**model.oracle.weights, "lm_head.weight": np.eye(arch.hidden_size)}
    expected = Oracle(whole, weights).logits(a)[30:]
    np.testing.assert_allclose(model.runner.hidden(), expected, rtol=0, atol=tol)
    model.run(span(2, 0, b))
    assert model.runner.hidden().shape == (0, arch.hidden_size)


def test_a_library_finds_the_scales_of_groups_as_numpy_does() -> None:
    """In whatever memory they lie, however many they are."""
    search = library(NARROW, "q4f16_1").search
    assert can_search(detect()) == (search is not None)
    if search is None:
        pytest.skip("this CPU does not round to float16")
    values = np.random.default_rng(0).standard_normal(1 + 37 * 32).astype(np.float16)
    for count in (0, 5, 16, 37):
        groups = values.astype(np.float32)[1 : 1 + count * 32].reshape(count, 32)
        groups.flags.writeable = False
        scales, words = np.zeros(count, np.float16), np.zeros((count, 4), np.uint32)
        search(groups, scales, words)
        expected = quantize_closest(groups)
        assert scales.tobytes() == expected.scales.tobytes()
        assert np.array_equal(words, expected.words)


def test_a_library_without_groups_of_4_bits_has_no_search() -> None:
    assert library(NARROW, "q0f32").search is None
