"""A plan as the arrays of `step`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_llm.compiler.abi import PAGE_SIZE, SEGMENT_TOKENS, TILE_ROWS
from mlc_llm.weights.memory import ALIGNMENT
from mlc_workers.runner.inputs import InputBuilder, fewest_parts, fewest_spans
from mlc_workers.scheduler.plan import Plan, Span

ROWS, PAGES = 6, 8
TABLE = np.random.default_rng(0).permutation(ROWS * PAGES).reshape(ROWS, PAGES).astype(np.int32)
MAX_ROWS = 256
KV_HEADS, THREADS = 6, 2

spans = st.builds(
    lambda row, start, length, sample: Span(row, start, list(range(start, start + length)), sample),
    st.integers(0, ROWS - 1),
    st.integers(0, 80),
    st.integers(1, 40),
    st.booleans(),
)
plans = st.lists(spans, min_size=1, max_size=6).map(lambda found: Plan(tuple(found)))


def test_two_spans_written_out() -> None:
    plan = Plan((Span(2, 20, [7], sample=True), Span(4, 0, list(range(50, 60)), sample=False)))
    inputs = InputBuilder(TABLE, KV_HEADS, THREADS, MAX_ROWS).build(plan)
    first, second = TABLE[2, 1], TABLE[4, 0]
    assert inputs.ids.tolist() == [7, *range(50, 60)]
    assert inputs.positions.tolist() == [20, *range(10)]
    assert inputs.slots.tolist() == [first * 16 + 4, *range(second * 16, second * 16 + 10)]
    assert inputs.tiles.tolist() == [[0, 1, 2, 6], [1, 8, 4, 6], [9, 2, 4, 6]]
    assert inputs.last.tolist() == [0]


@given(plans)
def test_every_token_has_its_place_and_is_in_one_tile(plan: Plan) -> None:
    inputs = InputBuilder(TABLE, KV_HEADS, THREADS, MAX_ROWS).build(plan)
    expected = [
        (token, span.start + i, TABLE[span.row, (span.start + i) // PAGE_SIZE], span.row)
        for span in plan.spans
        for i, token in enumerate(span.tokens)
    ]
    ids, positions, pages, rows = (list(column) for column in zip(*expected, strict=True))
    assert inputs.ids.tolist() == ids
    assert inputs.positions.tolist() == positions
    np.testing.assert_array_equal(inputs.slots // PAGE_SIZE, pages)
    np.testing.assert_array_equal(inputs.slots % PAGE_SIZE, inputs.positions % PAGE_SIZE)
    covered = []
    for first, count, row, _ in inputs.tiles.tolist():
        assert 1 <= count <= TILE_ROWS
        assert rows[first : first + count] == [row] * count
        assert positions[first + count - 1] - positions[first] == count - 1
        covered += range(first, first + count)
    assert covered == list(range(plan.num_tokens))


@given(plans)
def test_logits_are_wanted_after_the_last_token_of_spans_that_sample(plan: Plan) -> None:
    inputs = InputBuilder(TABLE, KV_HEADS, THREADS, MAX_ROWS).build(plan)
    ends = np.cumsum([len(span.tokens) for span in plan.spans]) - 1
    assert inputs.last.tolist() == [
        end for end, span in zip(ends, plan.spans, strict=True) if span.sample
    ]


def test_logits_of_tokens_that_are_read_come_before_the_one_that_is_sampled() -> None:
    spans = (
        Span(2, 20, [7], sample=True),
        Span(4, 0, list(range(10)), sample=True, first_read=3, num_read=6),
        Span(1, 0, [5] * 4, sample=False, first_read=0, num_read=4),
    )
    inputs = InputBuilder(TABLE, KV_HEADS, THREADS, MAX_ROWS).build(Plan(spans))
    assert inputs.last.tolist() == [0, *range(4, 10), 10, *range(11, 15)]


def test_heads_are_shared_out_once_to_decode_and_one_by_one_to_prompts() -> None:
    builder = InputBuilder(TABLE, KV_HEADS, THREADS, MAX_ROWS)
    decode = builder.build(Plan((Span(0, 9, [1], True), Span(1, 30, [1], True))))
    assert decode.tiles[:, 3].tolist() == [THREADS, THREADS]
    prompt = builder.build(Plan((Span(0, 9, [1], True), Span(1, 0, [1, 2], True))))
    assert prompt.tiles[:, 3].tolist() == [KV_HEADS, KV_HEADS]


def test_a_long_context_is_shared_where_heads_and_sequences_are_fewer_than_threads() -> None:
    long = 4 * SEGMENT_TOKENS
    table = np.arange(6 * 600, dtype=np.int32).reshape(6, 600)

    def parts(threads: int, kv_heads: int, *contexts: int) -> int:
        plan = Plan(tuple(Span(row, last - 1, [1], True) for row, last in enumerate(contexts)))
        tiles = InputBuilder(table, kv_heads, threads, MAX_ROWS).build(plan).tiles[:, 3].tolist()
        assert tiles == [tiles[0]] * len(contexts)
        return int(tiles[0])

    assert parts(2, 1, long) == 2
    assert parts(2, 1, long, long) == 1
    assert parts(2, 4, long) == 2
    assert parts(16, 8, long) == 16
    assert parts(16, 1, 4 * long) == 16
    assert parts(64, 2, 40, 4 * long) == 32
    assert parts(64, 8, 2 * long) == 64


def test_a_context_is_shared_only_by_as_many_tasks_as_it_has_segments() -> None:
    assert [fewest_spans(1, segments, 64) for segments in (0, 1, 2, 5, 64, 99)] == [
        1, 1, 2, 5, 64, 50,
    ]  # fmt: skip


def test_the_last_thread_to_be_done_is_done_soonest() -> None:
    assert fewest_spans(3, 16, 16) == 16, "all threads have three sixteenths of a context"
    assert fewest_spans(12, 3, 16) == 1, "threads would wait for those that have two tasks"
    assert fewest_spans(12, 4, 16) == 4
    assert fewest_spans(20, 4, 64) == 2, "three tasks of a context would be no sooner"


def test_parts_of_heads_are_equal_and_enough_for_all_threads() -> None:
    found = {(h, t): fewest_parts(h, t) for h, t in [(8, 2), (8, 3), (8, 16), (1, 2), (6, 4)]}
    assert found == {(8, 2): 2, (8, 3): 4, (8, 16): 8, (1, 2): 1, (6, 4): 6}


def test_hidden_states_are_taken_in_the_order_of_the_plan() -> None:
    spans = (
        Span(4, 0, list(range(10)), False, 9, 1, pooled=True),
        Span(2, 20, [7], sample=True),
        Span(1, 0, [5] * 4, False, 1, 3, pooled=True),
    )
    inputs = InputBuilder(TABLE, KV_HEADS, THREADS, MAX_ROWS).build(Plan(spans))
    assert inputs.taken.tolist() == [9, 12, 13, 14]
    assert inputs.last.tolist() == [10]
    alone = InputBuilder(TABLE, KV_HEADS, THREADS, MAX_ROWS).build(Plan(spans[:1]))
    assert (alone.taken.tolist(), alone.last.tolist()) == ([9], [])


def test_arrays_start_where_vector_loads_may() -> None:
    builder = InputBuilder(TABLE, KV_HEADS, THREADS, MAX_ROWS)
    for array in builder.build(Plan((Span(0, 0, [1], True),))):
        assert array.ctypes.data % ALIGNMENT == 0


def test_a_plan_of_more_rows_than_the_step_was_compiled_for_is_refused() -> None:
    with pytest.raises(ValueError, match="257 tokens exceeds the 256"):
        InputBuilder(TABLE, KV_HEADS, THREADS, MAX_ROWS).build(Plan((Span(0, 0, [1] * 257, True),)))
