"""Whatever is submitted, aborted and preempted in whatever order: outputs and books stay right."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from mlc_llm.errors import Overloaded, PromptTooLong
from mlc_llm.protocol.generation import GenerationConfig
from mlc_workers.cache.kv import KVCache
from mlc_workers.cache.pages import pages_for
from mlc_workers.request import Choice, Phase, Request, RequestKey
from mlc_workers.scheduler.limits import Limits
from mlc_workers.scheduler.pace import Pace
from mlc_workers.scheduler.scheduler import Scheduler
from support.fake_runner import FakeRunner, continuation

VOCAB = 50

limits = st.builds(
    Limits,
    num_pages=st.integers(1, 14),
    max_num_sequence=st.integers(1, 5),
    max_single_sequence_length=st.integers(2, 200),
    prefill_chunk_size=st.integers(1, 40),
    prefill_mode=st.sampled_from(["hybrid", "chunked"]),
    max_waiting=st.integers(1, 6),
)
# Few different beginnings, so that prompts share pages.
prompts = st.builds(
    lambda kind, length: [(i * kind) % VOCAB for i in range(length)],
    st.integers(1, 3),
    st.one_of(st.integers(1, 90), st.sampled_from([16, 32, 48, 17, 31])),
)

paces = st.builds(
    lambda one, eight, token: Pace({1: one, 8: one * eight}, token),
    st.floats(1e-3, 1.0),
    st.floats(1.0, 8.0),
    st.floats(1e-4, 1.0),
)


class Scheduling(RuleBasedStateMachine):
    """Drives a scheduler with the fake runner, one rule at a time."""

    @initialize(
        limits=limits,
        prefix=st.booleans(),
        max_idle=st.none() | st.integers(0, 5),
        pace=st.none() | paces,
    )
    def build(self, limits: Limits, prefix: bool, max_idle: int | None, pace: Pace | None) -> None:
        self.limits = limits
        self.kv = KVCache(
            limits.num_pages,
            limits.max_num_sequence,
            pages_for(limits.max_length),
            prefix_cache=prefix,
            max_idle=max_idle,
        )
        self.scheduler = Scheduler(limits, self.kv, pace)
        self.runner = FakeRunner(self.kv.table.array, limits.num_pages, VOCAB)
        self.live: list[Request] = []
        self.num_submitted = 0

    @rule(
        prompt=prompts,
        max_tokens=st.sampled_from([1, 2, 17, 40, -1]),
        n=st.sampled_from([1, 1, 1, 2, 4]),
    )
    def submit(self, prompt: list[int], max_tokens: int, n: int) -> None:
        self.num_submitted += 1
        request = Request(
            RequestKey(0, str(self.num_submitted)),
            list(prompt),
            GenerationConfig(max_tokens=max_tokens, n=n),
            serial=self.num_submitted,
        )
        error = self.scheduler.submit(request)
        if len(prompt) >= self.limits.max_length:
            assert isinstance(error, PromptTooLong)
        elif error is None:
            self.live.append(request)
        else:
            assert isinstance(error, Overloaded)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.live))
        self.scheduler.drop(request)
        self.live.remove(request)

    @precondition(lambda self: self.scheduler.state.running)
    @rule()
    def preempt(self) -> None:
        self.scheduler.state.preempt()

    @rule(times=st.integers(1, 12), seconds=st.floats(0.0, 10.0))
    def step(self, times: int, seconds: float) -> None:
        for _ in range(times):
            self.run_step(seconds=seconds)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def abort_while_a_step_runs(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.live))
        self.run_step(dropped=request)
        if request in self.live:
            self.live.remove(request)

    def run_step(self, dropped: Request | None = None, seconds: float = 1.0) -> None:
        oldest = self.scheduler.state.running[:1]
        step = self.scheduler.plan()
        assert (step is None) == (not self.live)
        if step is None:
            return
        if self.limits.prefill_mode == "hybrid":
            assert step.choices[: len(oldest)] == oldest
        assert 0 < step.plan.num_tokens <= self.limits.prefill_chunk_size
        hits = self.runner.run(step.plan).argmax(-1).tolist()
        if dropped:
            self.scheduler.drop(dropped)
        hits = hits if step.rows is None else [hits[row] for row in step.rows]
        tokens = [
            (hit + choice.index) % VOCAB for hit, choice in zip(hits, step.sampled, strict=True)
        ]
        self.scheduler.settle(step, tokens)
        self.scheduler.learn(step, seconds)
        for choice in step.sampled:
            if choice.phase is not Phase.FINISHED and len(choice.tokens) >= choice.limit:
                self.finish(choice)

    def finish(self, choice: Choice) -> None:
        request = choice.request
        prompt = choice.tokens[: request.num_prompt_tokens]
        expected = continuation(prompt, choice.num_generated, VOCAB, shift=choice.index)
        assert choice.tokens[request.num_prompt_tokens :] == expected
        assert len(choice.tokens) == choice.limit
        self.scheduler.finish(choice)
        if request.is_finished:
            self.live.remove(request)

    @invariant()
    def books_are_right(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.audit()

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for _ in range(20_000):
            if not self.live:
                break
            self.run_step()
            self.scheduler.audit()
        assert not self.live
        assert self.scheduler.plan() is None
        assert self.kv.num_available == self.limits.num_pages
        self.kv.clear()
        self.scheduler.audit()
        assert self.kv.pool.num_free == self.limits.num_pages


Scheduling.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
test_any_schedule_gives_the_same_outputs_and_leaks_nothing = Scheduling.TestCase
