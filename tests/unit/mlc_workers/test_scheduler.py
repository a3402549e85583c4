"""The schedule of a few requests, step by step."""

from __future__ import annotations

import pytest

from mlc_llm.errors import MLCError, Overloaded, PromptTooLong
from mlc_llm.protocol.generation import GenerationConfig
from mlc_workers.cache.kv import KVCache
from mlc_workers.cache.pages import pages_for
from mlc_workers.request import Choice, InvalidTransition, Phase, Request, RequestKey
from mlc_workers.scheduler.limits import Limits
from mlc_workers.scheduler.pace import Pace, whole_tiles
from mlc_workers.scheduler.prefill import plan_chunk
from mlc_workers.scheduler.scheduler import Scheduler
from mlc_workers.scheduler.step import StepBuilder
from support.fake_runner import FakeRunner, continuation

VOCAB = 97


class Bench:
    """A scheduler and a fake runner with round sizes."""

    def __init__(self, pace: Pace | None = None, **changes: object) -> None:
        sizes = {
            "num_pages": 32,
            "max_num_sequence": 4,
            "max_single_sequence_length": 512,
            "prefill_chunk_size": 32,
        }
        self.limits = Limits(**{**sizes, **changes})  # type: ignore[arg-type]
        self.kv = KVCache(
            self.limits.num_pages, self.limits.max_num_sequence, pages_for(self.limits.max_length)
        )
        self.scheduler = Scheduler(self.limits, self.kv, pace)
        self.runner = FakeRunner(self.kv.table.array, self.limits.num_pages, VOCAB)
        self.serial = 0

    def request(self, prompt: list[int], *, n: int = 1, max_tokens: int = -1) -> Request:
        self.serial += 1
        generation = GenerationConfig(n=n, max_tokens=max_tokens)
        return Request(RequestKey(0, f"r{self.serial}"), prompt, generation, serial=self.serial)

    def submit(self, prompt: list[int], *, n: int = 1, max_tokens: int = -1) -> Request:
        request = self.request(prompt, n=n, max_tokens=max_tokens)
        assert self.scheduler.submit(request) is None
        return request

    def refused(self, prompt: list[int]) -> MLCError | None:
        return self.scheduler.submit(self.request(prompt))

    def step(self) -> list[tuple[str, int]]:
        """Run one step; returns (request id, tokens computed) for each span."""
        step = self.scheduler.plan()
        assert step is not None
        hits = self.runner.run(step.plan).argmax(-1).tolist()
        rows = step.rows if step.rows is not None else range(len(hits))
        tokens = [(hits[r] + c.index) % VOCAB for r, c in zip(rows, step.sampled, strict=True)]
        self.scheduler.settle(step, tokens)
        for choice in step.sampled:
            if len(choice.tokens) >= choice.limit:
                self.scheduler.finish(choice)
        self.scheduler.audit()
        sizes = [len(span.tokens) for span in step.plan.spans]
        return [
            (c.request.key.request_id, size) for c, size in zip(step.choices, sizes, strict=True)
        ]


def test_a_long_prompt_shares_steps_with_decoding_and_never_exceeds_the_budget() -> None:
    bench = Bench()
    bench.submit([1] * 10)
    assert bench.step() == [("r1", 10)]
    bench.submit([2] * 70)
    assert bench.step() == [("r1", 1), ("r2", 31)]
    assert bench.step() == [("r1", 1), ("r2", 31)]
    assert bench.step() == [("r1", 1), ("r2", 8)]
    assert bench.step() == [("r1", 1), ("r2", 1)]


def test_while_somebody_decodes_a_prompt_takes_only_what_keeps_the_step_short() -> None:
    pace = Pace(decode_s={1: 10.0}, token_s=1.0)
    bench = Bench(pace)
    bench.submit([1] * 30)
    assert bench.step() == [("r1", 30)]
    bench.submit([2] * 40)
    size = whole_tiles(1, pace.prompt_tokens(num_streams=1, num_expected=2))
    assert 8 < size < 31
    assert bench.step() == [("r1", 1), ("r2", size)]


def test_in_chunked_mode_decoding_pauses_while_prompts_are_computed() -> None:
    bench = Bench(prefill_mode="chunked")
    bench.submit([1] * 10)
    bench.step()
    bench.submit([2] * 40)
    assert bench.step() == [("r2", 32)]
    assert bench.step() == [("r2", 8)]
    assert bench.step() == [("r1", 1), ("r2", 1)]


def test_several_short_prompts_begin_in_one_step() -> None:
    bench = Bench()
    for token in range(3):
        bench.submit([token] * 8)
    assert bench.step() == [("r1", 8), ("r2", 8), ("r3", 8)]


def test_a_prompt_takes_the_pages_there_are_when_there_are_too_few_for_its_chunk() -> None:
    bench = Bench(num_pages=4, prefill_chunk_size=64)
    state = bench.scheduler.state
    (choice,) = bench.submit([1] * 63).choices
    state.start(choice, [], 1)
    bench.kv.extend(bench.kv.open([]), 32, [])
    step = StepBuilder()
    step.num_prefill = 64
    plan_chunk(state, step, choice)
    assert [len(span.tokens) for span in step.spans] == [32]


def test_whole_prompts_wait_for_a_step_that_has_room_for_all_of_them() -> None:
    bench = Bench(whole_prompts=True, max_single_sequence_length=33)
    requests = [bench.submit([size] * size, max_tokens=1) for size in (20, 10, 5, 32)]
    assert bench.step() == [("r1", 20), ("r2", 10)]
    for request in requests[:2]:
        bench.scheduler.drop(request)
    assert bench.step() == [("r3", 5)]
    bench.scheduler.drop(requests[2])
    assert bench.step() == [("r4", 32)]


def test_the_oldest_gets_a_token_even_when_others_could_take_the_whole_budget() -> None:
    bench = Bench(prefill_chunk_size=1)
    bench.submit([1] * 9)
    bench.step()
    state = bench.scheduler.state
    (newer,) = bench.submit([2, 3]).choices
    state.start(newer, [], 1)
    assert newer.sequence is not None
    bench.kv.extend(newer.sequence, 1, [])
    newer.sequence.length = 1
    state.begin_decode(newer)
    assert bench.step() == [("r1", 1)]


def test_a_prompt_does_not_begin_on_the_last_pages_that_others_are_about_to_need() -> None:
    bench = Bench(num_pages=6)
    bench.submit([1] * 16)
    bench.step()
    bench.submit([2] * 63)
    assert bench.step() == [("r1", 1)]
    roomy = Bench(num_pages=7)
    roomy.submit([1] * 16)
    roomy.step()
    roomy.submit([2] * 63)
    assert roomy.step() == [("r1", 1), ("r2", 31)]


def test_the_queue_is_not_overtaken_by_a_smaller_request() -> None:
    bench = Bench(num_pages=8)
    bench.submit([1] * 40, max_tokens=3)
    bench.step()
    bench.submit([2] * 100)
    bench.submit([3])
    assert bench.step() == [("r1", 8)]
    assert bench.step() == [("r1", 1)]
    assert bench.step() == [("r1", 1)]
    assert bench.step() == [("r2", 32)]


def test_a_prompt_that_can_never_fit_is_refused_at_once() -> None:
    bench = Bench(num_pages=4)
    assert isinstance(bench.refused([1] * 64), PromptTooLong)
    assert bench.refused([1] * 63) is None


def test_more_tokens_than_may_wait_are_refused_and_one_prompt_always_may() -> None:
    bench = Bench(max_waiting_tokens=50, max_num_sequence=1)
    bench.submit([1] * 60)
    assert isinstance(bench.refused([1]), Overloaded)
    bench.step()
    bench.submit([2] * 30)
    bench.submit([3] * 20)
    assert isinstance(bench.refused([4]), Overloaded)


def test_more_than_max_waiting_requests_are_refused() -> None:
    bench = Bench(max_waiting=2, max_num_sequence=1)
    assert [bench.refused([1]) for _ in range(3)] == [None, None, None]
    assert isinstance(bench.refused([1]), Overloaded)
    bench.step()
    assert isinstance(bench.refused([1]), Overloaded)


def test_generation_ends_at_the_capacity_of_the_cache() -> None:
    bench = Bench(num_pages=3, max_single_sequence_length=10_000)
    request = bench.submit([1] * 40)
    while bench.scheduler.has_work:
        bench.step()
    assert len(request.choices[0].tokens) == 48


def test_the_newest_is_preempted_and_its_output_is_unbroken() -> None:
    bench = Bench(num_pages=6)
    requests = [bench.submit([token] * 20, max_tokens=40) for token in (1, 2)]
    while bench.scheduler.has_work:
        bench.step()
    assert bench.scheduler.state.num_preemptions > 0
    for token, request in zip((1, 2), requests, strict=True):
        assert request.choices[0].tokens[20:] == continuation([token] * 20, 40, VOCAB)


def test_choices_prefill_their_prompt_once_and_go_their_own_ways() -> None:
    bench = Bench()
    request = bench.submit([1] * 20, n=3, max_tokens=5)
    assert bench.step() == [("r1", 20)]
    assert bench.kv.pool.num_free == 30
    assert bench.step() == [("r1", 1)] * 3
    while bench.scheduler.has_work:
        bench.step()
    for choice in request.choices:
        assert choice.tokens[20:] == continuation([1] * 20, 5, VOCAB, shift=choice.index)


def test_more_choices_than_rows_take_turns() -> None:
    bench = Bench(max_num_sequence=2)
    request = bench.submit([1] * 20, n=5, max_tokens=6)
    while bench.scheduler.has_work:
        bench.step()
    for choice in request.choices:
        assert choice.tokens[20:] == continuation([1] * 20, 6, VOCAB, shift=choice.index)


def test_a_prompt_seen_before_is_not_computed_again() -> None:
    bench = Bench(prefill_chunk_size=64)
    prompt = list(range(50))
    first = bench.submit(list(prompt), max_tokens=20)
    while bench.scheduler.has_work:
        bench.step()
    answer = first.choices[0].tokens
    second = bench.submit([*answer, 7], max_tokens=2)
    assert bench.step() == [("r2", 71 - 64)]
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 64)


def test_a_dropped_request_frees_its_pages_in_every_phase() -> None:
    bench = Bench()
    waiting, prefill, decode = (bench.request([t] * 40, n=2) for t in range(3))
    for request, steps in ((waiting, 0), (prefill, 1), (decode, 3)):
        bench.scheduler.submit(request)
        for _ in range(steps):
            bench.step()
        bench.scheduler.drop(request)
        bench.scheduler.drop(request)
        bench.scheduler.audit()
        assert bench.kv.num_available == 32
        assert bench.scheduler.plan() is None


def test_a_finished_choice_cannot_move() -> None:
    choice = Choice(Bench().request([1]), 0, [1])
    choice.move(Phase.FINISHED)
    with pytest.raises(InvalidTransition):
        choice.move(Phase.DECODE)
