"""The sampler against its definition, and what must hold of seeds, batches and bad rows."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlc_llm.protocol.generation import GenerationConfig
from mlc_workers.sampling.draw import draw, is_filtered, keep
from mlc_workers.sampling.limits import check_generation
from mlc_workers.sampling.mask import Mask
from mlc_workers.sampling.nucleus import Between, bracket, leave_out
from mlc_workers.sampling.penalties import Adjustments
from mlc_workers.sampling.sampler import ChoiceMemory, NumpySampler, Pick, Unsampleable
from mlc_workers.sampling.uniform import stream_key, uniform
from support import reference_sampler as reference

Row = NDArray[np.float32]
CLOSE = 1e-5


@st.composite
def rows(draw_from: st.DrawFn) -> Row:
    """Logits of several sizes and shapes, many with ties and tokens that are ruled out."""
    size = draw_from(st.sampled_from([1, 2, 5, 40, 300, 5000]))
    source = np.random.default_rng(draw_from(st.integers(0, 2**32)))
    row = source.standard_normal(size) * draw_from(st.sampled_from([0.0, 0.1, 1.0, 5.0, 30.0]))
    if draw_from(st.booleans()):
        row = np.round(row)
    if draw_from(st.booleans()):
        row[source.random(size) < 0.3] = -np.inf
        row[source.integers(size)] = 1.0
    return row.astype(np.float32)


configs = st.builds(
    GenerationConfig,
    temperature=st.floats(0.05, 3),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 1.0]),
    top_k=st.sampled_from([-1, 1, 2, 7, 100, 4000]),
    min_p=st.sampled_from([0.0, 0.0, 0.03, 0.5, 1.0]),
)
uniforms = st.floats(0, 1, exclude_max=True)


@settings(max_examples=200, deadline=None)
@given(row=rows(), config=configs)
def test_filters_keep_the_tokens_that_their_definition_keeps(
    row: Row, config: GenerationConfig
) -> None:
    assume(is_filtered(config, len(row)))
    ids, weights = keep(row, config, np.empty_like(row))
    exact = row.astype(np.float64)
    assert list(ids) == sorted(reference.ranking(exact)[: len(ids)])
    fewest = reference.num_kept(exact, config, -CLOSE)
    most = reference.num_kept(exact, config, CLOSE)
    assert min(fewest, most) <= len(ids) <= max(fewest, most)
    np.testing.assert_allclose(
        weights / weights.sum(), reference.softmax(exact[ids], config.temperature), atol=1e-12
    )


@settings(max_examples=200, deadline=None)
@given(row=rows(), config=configs, u=uniforms)
def test_the_token_drawn_is_where_the_running_sum_passes_the_uniform(
    row: Row, config: GenerationConfig, u: float
) -> None:
    token_id = draw(row, config, u, np.empty_like(row))
    exact = row.astype(np.float64)
    kept = np.arange(len(row))
    if is_filtered(config, len(row)):
        kept, _ = keep(row, config, np.empty_like(row))
    probabilities = reference.softmax(exact[kept], config.temperature)
    at = list(kept).index(token_id)
    assert probabilities[at] > 0
    assert probabilities[:at].sum() <= u + CLOSE
    assert u <= probabilities[: at + 1].sum() + CLOSE


def large_rows(flat: float, seed: int, rounded: bool) -> Row:
    row = np.random.default_rng(seed).standard_normal(20_000) * flat
    return (np.round(row, 1) if rounded else row).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    row=st.builds(large_rows, st.floats(0, 2), st.integers(0, 2**32), st.booleans()),
    config=st.builds(
        GenerationConfig,
        temperature=st.floats(0.5, 2),
        top_p=st.floats(0.05, 0.999),
        min_p=st.sampled_from([0.0, 0.0, 0.01]),
    ),
    u=uniforms,
)
def test_most_of_a_vocabulary_is_kept_as_its_definition_says(
    row: Row, config: GenerationConfig, u: float
) -> None:
    token_id = draw(row, config, u, np.empty_like(row))
    kept, weights = keep(row, config, np.empty_like(row))
    at = int(np.searchsorted(kept, token_id))
    assert at < len(kept)
    assert kept[at] == token_id
    probabilities = weights / weights.sum()
    assert probabilities[:at].sum() <= u + CLOSE
    assert u <= probabilities[: at + 1].sum() + CLOSE


def test_what_top_p_leaves_out_is_exact_at_the_edge_and_among_equals() -> None:
    row = large_rows(1.0, 3, rounded=True)
    weights = np.exp(row - row.max())
    whole = float(weights.sum(dtype=np.float64))
    mass = 0.7 * whole
    between = bracket(weights, whole - mass)
    assert between is not None
    masses = leave_out(weights, row, between, mass)
    assert masses is not None
    expected, _ = keep(row, GenerationConfig(top_p=0.7), np.empty_like(row))
    np.testing.assert_array_equal(np.flatnonzero(weights), expected)
    assert masses.sum() == pytest.approx(weights.sum(dtype=np.float64), rel=1e-6)


def test_a_bracket_without_the_cut_is_noticed() -> None:
    row = large_rows(1.0, 3, rounded=False)
    weights = np.exp(row - row.max())
    mass = 0.7 * float(weights.sum(dtype=np.float64))
    wrong = np.quantile(weights, [0.9, 0.95]).astype(np.float32)
    assert leave_out(weights, row, Between(*wrong), mass) is None


@settings(max_examples=100, deadline=None)
@given(
    row=rows().filter(lambda row: len(row) >= 40),
    config=st.builds(
        GenerationConfig,
        frequency_penalty=st.floats(-2, 2),
        presence_penalty=st.floats(-2, 2),
        repetition_penalty=st.floats(0.5, 2),
        logit_bias=st.dictionaries(st.integers(0, 39), st.floats(-100, 100), max_size=5),
        stop_token_ids=st.sampled_from([(), (3,), (1, 2)]),
        min_tokens=st.integers(0, 5),
    ),
    generated=st.lists(st.integers(0, 39), max_size=40),
)
def test_bias_penalties_and_masks_are_those_of_the_definition(
    row: Row, config: GenerationConfig, generated: list[int]
) -> None:
    adjustments = Adjustments(config, len(row))
    for token_id in generated:
        adjustments.observe(token_id)
    before = row.copy()
    after = adjustments.apply(row, len(generated))
    expected = reference.adjusted(row.astype(np.float64), config, generated)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(row, before)


def test_a_uniform_at_the_edge_never_draws_an_impossible_token() -> None:
    row = np.array([-np.inf, 0, -np.inf, 0, -np.inf], np.float32)
    for config in (GenerationConfig(), GenerationConfig(top_k=4)):
        drawn = [draw(row, config, u, np.empty_like(row)) for u in (0.0, 0.5, 1 - 2**-53)]
        assert drawn == [1, 3, 3]


def logits(num_rows: int, vocab_size: int = 500, seed: int = 0) -> Row:
    source = np.random.default_rng(seed)
    return source.standard_normal((num_rows, vocab_size), dtype=np.float32) * 3


def tokens(sampler: NumpySampler, batches: list[Row], memory: ChoiceMemory, row: int) -> list[int]:
    """What one choice gets from its row of every batch, the others of the batch being greedy."""
    company = [sampler.open(GenerationConfig(temperature=0), 0) for _ in batches[0]]
    out = []
    for batch in batches:
        pick = sampler.sample(batch, [*company[:row], memory, *company[row + 1 :]])[row]
        assert isinstance(pick, Pick)
        out.append(pick.token_id)
    return out


@pytest.mark.parametrize(
    "config",
    [
        GenerationConfig(seed=7),
        GenerationConfig(seed=7, top_p=0.9, top_k=40, frequency_penalty=1.0),
        GenerationConfig(seed=-(2**70), top_p=0.5, min_p=0.01, temperature=1.5),
    ],
)
def test_a_seed_gives_the_same_tokens_alone_and_in_a_batch(config: GenerationConfig) -> None:
    sampler = NumpySampler(500)
    batches = [logits(5, seed=step) for step in range(20)]
    in_company = tokens(sampler, batches, sampler.open(config, 0), row=3)
    alone = tokens(sampler, [batch[3:4].copy() for batch in batches], sampler.open(config, 0), 0)
    other_choice = tokens(sampler, batches, sampler.open(config, 1), row=3)
    assert alone == in_company
    assert other_choice != in_company


def test_without_a_seed_every_request_has_its_own() -> None:
    sampler = NumpySampler(500)
    batches = [logits(1, seed=step) for step in range(20)]
    runs = [tokens(sampler, batches, sampler.open(GenerationConfig(), 0), 0) for _ in range(2)]
    assert runs[0] != runs[1]


@pytest.mark.parametrize("temperature", [0.0, 1e-5])
def test_temperature_zero_takes_the_likeliest_token_and_of_equal_ones_the_first(
    temperature: float,
) -> None:
    sampler = NumpySampler(3)
    memory = sampler.open(GenerationConfig(temperature=temperature), 0)
    assert sampler.sample(np.array([[1, 5, 5]], np.float32), [memory]) == [Pick(1)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_a_row_that_is_no_distribution_fails_alone(bad: float, temperature: float) -> None:
    sampler = NumpySampler(500)
    batch = logits(3)
    batch[1, :] = -math.inf
    batch[1, 77] = bad
    memories = [sampler.open(GenerationConfig(temperature=temperature), 0) for _ in range(3)]
    picks = sampler.sample(batch, memories)
    assert [type(pick) for pick in picks] == [Pick, Unsampleable, Pick]
    assert [memory.position for memory in memories] == [1, 0, 1]


def test_columns_beyond_the_vocabulary_are_never_sampled() -> None:
    sampler = NumpySampler(10)
    padded = np.zeros((1, 16), np.float32)
    padded[0, 10:] = math.nan
    for config in (GenerationConfig(), GenerationConfig(temperature=0), GenerationConfig(top_k=3)):
        pick = sampler.sample(padded, [sampler.open(config, 0)])[0]
        assert isinstance(pick, Pick)
        assert pick.token_id < 10


def test_logprobs_are_of_the_raw_distribution() -> None:
    sampler = NumpySampler(500)
    batch = logits(1)
    config = GenerationConfig(
        temperature=0, logit_bias={9: 100.0}, logprobs=True, top_logprobs=5, frequency_penalty=1
    )
    pick = sampler.sample(batch, [sampler.open(config, 0)])[0]
    exact = np.log(reference.softmax(batch[0].astype(np.float64)))
    assert isinstance(pick, Pick)
    assert pick.token_id == 9
    assert pick.logprob == pytest.approx(exact[9], abs=1e-5)
    assert [token_id for token_id, _ in pick.top] == reference.ranking(exact)[:5]
    assert [value for _, value in pick.top] == pytest.approx(sorted(exact)[:-6:-1], abs=1e-5)


def test_end_tokens_wait_for_min_tokens() -> None:
    sampler = NumpySampler(4)
    batch = np.array([[0, 1, 2, 9]], np.float32)
    memory = sampler.open(GenerationConfig(temperature=0, stop_token_ids=(3, 99), min_tokens=2), 0)
    picks = [sampler.sample(batch, [memory])[0] for _ in range(3)]
    assert picks == [Pick(2), Pick(2), Pick(3)]


def test_a_repeated_token_is_worn_down_by_the_frequency_penalty() -> None:
    sampler = NumpySampler(2)
    batch = np.array([[3, 0]], np.float32)
    memory = sampler.open(GenerationConfig(temperature=0, frequency_penalty=2), 0)
    picks = [sampler.sample(batch, [memory])[0] for _ in range(4)]
    assert picks == [Pick(0), Pick(0), Pick(1), Pick(0)]


def test_choices_of_a_request_share_what_was_asked_for_and_count_their_own_tokens() -> None:
    sampler = NumpySampler(5)
    bias = dict.fromkeys(range(4), 2.0)
    config = GenerationConfig(temperature=0, frequency_penalty=2, logit_bias=bias)
    row = np.array([[1.0, 0.5, 0.0, 0.0, 2.0]], np.float32)

    def pick(memory: ChoiceMemory) -> int:
        (picked,) = sampler.sample(row, [memory])
        assert isinstance(picked, Pick)
        return picked.token_id

    first, second = sampler.open(config, 0), sampler.open(config, 1)
    assert [pick(first), pick(first), pick(second)] == [0, 1, 0]
    assert np.shares_memory(first.adjustments._bias, second.adjustments._bias)
    assert pick(sampler.open(GenerationConfig(temperature=0), 0)) == 4


def test_uniforms_are_those_of_splitmix64() -> None:
    first = uniform(1234567, 0)
    assert first == (6457827717110365317 >> 11) * 2.0**-53  # from the published test vector
    assert uniform(1234567, 1) == (3203168211198807973 >> 11) * 2.0**-53


def test_uniforms_fill_the_unit_interval_evenly() -> None:
    values = np.array(
        [
            uniform(stream_key(seed, i), p)
            for seed in range(20)
            for i in range(5)
            for p in range(100)
        ]
    )
    counts, _ = np.histogram(values, bins=10, range=(0, 1))
    assert np.abs(counts - 1000).max() < 150


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (GenerationConfig(n=0), "n is 0"),
        (GenerationConfig(temperature=math.nan), "temperature"),
        (GenerationConfig(temperature=-1), "temperature"),
        (GenerationConfig(top_p=1.5), "top_p"),
        (GenerationConfig(top_k=-2), "top_k"),
        (GenerationConfig(min_p=math.inf), "min_p"),
        (GenerationConfig(repetition_penalty=0), "repetition_penalty"),
        (GenerationConfig(logit_bias={100: 1.0}), "between 0 and 99"),
        (GenerationConfig(logit_bias={1: math.nan}), "logit_bias"),
        (GenerationConfig(stop_token_ids=(-1,)), "stop_token_ids"),
        (GenerationConfig(logprobs=True, top_logprobs=21), "top_logprobs"),
        (GenerationConfig(top_logprobs=1), "logprobs"),
        (GenerationConfig(max_tokens=-2), "max_tokens"),
    ],
)
def test_settings_out_of_range_are_named(config: GenerationConfig, word: str) -> None:
    assert word in (check_generation(config, vocab_size=100) or "")


def test_ordinary_settings_pass() -> None:
    assert check_generation(GenerationConfig(), vocab_size=100) is None


def mask_of(allowed: Any) -> Mask:
    """The mask of a row of truth values."""
    bits = np.zeros(-(-len(allowed) // 32) * 32, bool)
    bits[: len(allowed)] = allowed
    words = np.packbits(bits, bitorder="little").view(np.uint32)
    return Mask(words, len(allowed), np.empty(len(bits), np.float32))


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 700), seed=st.integers(0, 2**32), share=st.floats(0, 1), few=st.booleans()
)
def test_a_mask_leaves_what_it_says_whichever_form_it_takes(
    size: int, seed: int, share: float, few: bool
) -> None:
    random = np.random.default_rng(seed)
    allowed = random.random(size) < share
    row = random.standard_normal(size, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlc_workers.sampling.mask.FEW", 1024 if few else -1)
        mask = mask_of(allowed)
    left = mask.apply(row)
    if few:
        assert mask.ids is not None
        assert mask.ids.tolist() == np.flatnonzero(allowed).tolist()
        assert left.tolist() == row[allowed].tolist()
    else:
        assert left.tolist() == np.where(allowed, row, -np.inf).tolist()
    assert mask.num_allowed == allowed.sum()
    some = random.integers(0, size, 5)
    assert mask.count(some) == allowed[some].sum()


@settings(max_examples=60, deadline=None)
@given(row=rows(), config=configs, seed=st.integers(0, 2**32), share=st.floats(0, 1))
def test_only_tokens_of_the_mask_are_picked(
    row: Row, config: GenerationConfig, seed: int, share: float
) -> None:
    mask = np.random.default_rng(seed).random(len(row)) < share
    mask[int(row.argmax())] = True
    sampler = NumpySampler(len(row))
    memory = sampler.open(msgspec.structs.replace(config, seed=seed), 0)
    for _ in range(5):
        (pick,) = sampler.sample(row[None], [memory], [mask_of(mask)])
        assert isinstance(pick, Pick)
        assert mask[pick.token_id]


def test_log_probabilities_do_not_know_of_the_mask() -> None:
    row = np.array([[1, 2, 3, 4]], np.float32)
    mask = np.array([True, False, False, False])
    config = GenerationConfig(logprobs=True, top_logprobs=2)
    sampler = NumpySampler(4)
    (pick,) = sampler.sample(row, [sampler.open(config, 0)], [mask_of(mask)])
    assert isinstance(pick, Pick)
    assert pick.token_id == 0
    assert [token_id for token_id, _ in pick.top] == [3, 2]
    assert pick.logprob == pytest.approx(1 - math.log(np.exp(row).sum()))


def test_an_empty_mask_is_an_error_of_its_row() -> None:
    sampler = NumpySampler(4)
    memories = [sampler.open(GenerationConfig(temperature=0), 0) for _ in range(2)]
    bad, good = sampler.sample(np.eye(2, 4, dtype=np.float32), memories, [mask_of([0] * 4), None])
    assert isinstance(bad, Unsampleable)
    assert good == Pick(1)


def test_an_end_token_is_held_back_unless_the_mask_leaves_nothing_else() -> None:
    config = GenerationConfig(temperature=0, min_tokens=5, stop_token_ids=(1, 1, 9))
    sampler = NumpySampler(4)
    row = np.array([[0, 9, 1, 2]], np.float32)
    for allowed, expected in (([1, 2], 2), ([1], 1)):
        mask = np.isin(np.arange(4), allowed)
        assert sampler.sample(row, [sampler.open(config, 0)], [mask_of(mask)]) == [Pick(expected)]
