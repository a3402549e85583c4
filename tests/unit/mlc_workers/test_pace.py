"""How prompts and streams share steps: what is learnt, and what it does to pauses."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given, settings
from msgspec import Struct

from mlc_llm.compiler.abi import TILE_ROWS
from mlc_llm.protocol.generation import GenerationConfig
from mlc_workers.cache.kv import KVCache
from mlc_workers.request import Choice, Request, RequestKey
from mlc_workers.scheduler.limits import Limits
from mlc_workers.scheduler.pace import LEAST, Pace, whole_tiles
from mlc_workers.scheduler.scheduler import Scheduler


class Machine(Struct):
    """What steps take: the weights are read, and every stream and every token adds its part."""

    weights: float
    stream: float
    token: float

    def seconds(self, num_streams: int, num_tokens: int) -> float:
        return max(self.weights, num_streams * self.stream + num_tokens * self.token)


# Streams cost one and a half to three tokens; reading the weights as much as one to thirty tokens.
machines = st.builds(
    lambda token, weights, stream: Machine(weights * token, stream * token, token),
    st.floats(1e-5, 1e-2),
    st.floats(1.0, 30.0),
    st.floats(1.5, 3.0),
)


def paced(machine: Machine) -> Pace:
    return Pace({n: machine.seconds(n, 0) for n in (1, 8)}, machine.seconds(0, 16) / 16)


def settled(pace: Pace, machine: Machine, num_streams: int, num_expected: int) -> int:
    """What the pace comes to after some steps of its own choice."""
    for _ in range(60):
        pace.learn(num_expected, 0, machine.seconds(num_expected, 0))
    for _ in range(60):
        tokens = pace.prompt_tokens(num_streams, num_expected)
        pace.learn(num_streams, tokens, machine.seconds(num_streams, tokens))
    return pace.prompt_tokens(num_streams, num_expected)


@given(machine=machines, num_streams=st.integers(1, 32), more=st.integers(1, 32))
@settings(max_examples=60, deadline=None)
def test_a_step_with_prompts_takes_less_than_two_that_only_decode(
    machine: Machine, num_streams: int, more: int
) -> None:
    pace = paced(machine)
    tokens = settled(pace, machine, num_streams, num_streams + more)
    took = machine.seconds(num_streams, tokens)
    usual = machine.seconds(num_streams + more, 0)
    assert took < 2.0 * usual or tokens == LEAST
    assert took > 1.3 * usual  # and no prompt waits for nothing


@given(
    steps=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 64), st.floats(0.0, 1e6))),
    num_streams=st.integers(1, 64),
    more=st.integers(0, 64),
)
def test_whatever_was_seen_prompts_go_on(
    steps: list[tuple[int, int, float]], num_streams: int, more: int
) -> None:
    pace = Pace({1: 1e-3}, 1e-4)
    for streams, tokens, seconds in steps:
        assume(streams or tokens)
        pace.learn(streams, tokens, seconds)
    assert pace.prompt_tokens(num_streams, num_streams + more) >= LEAST


@pytest.mark.parametrize(("num_streams", "num_tokens"), [(4, 0), (0, 128), (4, 32)])
def test_one_disturbed_step_changes_little(num_streams: int, num_tokens: int) -> None:
    machine = Machine(10.0, 2.0, 1.0)
    pace = paced(machine)
    before = settled(pace, machine, 4, 8)
    pace.learn(num_streams, num_tokens, 100 * machine.seconds(num_streams, num_tokens))
    assert abs(pace.prompt_tokens(4, 8) - before) <= 0.1 * before + 1


def test_estimates_follow_steps_that_take_longer_and_longer() -> None:
    pace = Pace({1: 1.0}, 1.0)
    for _ in range(200):
        pace.learn(4, 0, 40.0)
    assert pace.decode_s(4) == pytest.approx(40.0, rel=1e-3)


def test_steps_that_were_never_seen_lie_between_those_that_were() -> None:
    pace = Pace({1: 10.0}, 1.0)
    for _ in range(60):
        pace.learn(8, 0, 20.0)
    times = [pace.decode_s(n) for n in range(1, 20)]
    assert times == sorted(times)
    assert times[7] == pytest.approx(20.0, rel=0.05)


@given(num_streams=st.integers(1, 64), num_tokens=st.integers(LEAST, 512))
def test_a_step_with_prompts_fills_the_tiles_of_rows_that_it_begins(
    num_streams: int, num_tokens: int
) -> None:
    tokens = whole_tiles(num_streams, num_tokens)
    assert num_tokens - TILE_ROWS < tokens <= num_tokens + 1
    assert (num_streams + tokens) % TILE_ROWS == 0 or tokens == num_tokens < LEAST + TILE_ROWS


def burst(machine: Machine, num: int, prompt: int, answer: int) -> Iterator[float]:
    """Pauses of a stream that decodes alone when `num` prompts come at once."""
    limits = Limits(
        num_pages=512, max_num_sequence=16, max_single_sequence_length=512, prefill_chunk_size=128
    )
    scheduler = Scheduler(limits, KVCache(limits.num_pages, 16, 32), paced(machine))

    def submit(serial: int, tokens: int, max_tokens: int) -> Choice:
        generation = GenerationConfig(max_tokens=max_tokens)
        ids = [(serial * 31 + i) % 97 for i in range(tokens)]
        request = Request(RequestKey(0, str(serial)), ids, generation, serial=serial)
        assert scheduler.submit(request) is None
        return request.choices[0]

    first = submit(0, 8, 400)
    others: list[Choice] = []
    while not others or scheduler.state.num_decoding <= num:
        step = scheduler.plan()
        assert step is not None
        took = machine.seconds(len(step.decoding), step.num_prefill_tokens)
        if first in step.decoding:
            yield took
        scheduler.settle(step, [5] * len(step.sampled))
        scheduler.learn(step, took)
        if first.num_generated == 8:
            others = [submit(1 + i, prompt, answer) for i in range(num)]


@given(machine=machines, num=st.integers(1, 8), prompt=st.integers(20, 300))
@settings(max_examples=25, deadline=None)
def test_a_crowd_of_prompts_leaves_no_long_pause_in_a_stream(
    machine: Machine, num: int, prompt: int
) -> None:
    """Not even the first crowd, of which nothing is known but what the start has shown."""
    usual = machine.seconds(1 + num, 0)
    least = machine.seconds(1 + num, LEAST)
    for pause in burst(machine, num, prompt, 200):
        assert pause <= max(2.5 * usual, 1.5 * least)
