"""Prompts that are read: every token's result, once, whatever becomes of the request meanwhile."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mlc_llm.protocol.messages import FinishReason, PromptToken
from mlc_workers.scheduler.plan import Plan
from support.fake_runner import next_token

from .engine_bench import VOCAB, EngineBench, FakeEnd

HIT = 1 - np.log(np.e + VOCAB - 1)
MISS = -np.log(np.e + VOCAB - 1)
LONG = [t % 7 for t in range(75)]


def told(end: FakeEnd, request_id: str) -> list[PromptToken]:
    return [token for delta in end.deltas(request_id) for token in delta.prompt]


def check(end: FakeEnd, request_id: str, prompt: list[int]) -> None:
    """The client was told of the prompt what the fake model thinks of it."""
    found = told(end, request_id)
    assert [token.token_id for token in found] == prompt
    assert (found[0].logprob, found[0].rank, found[0].top) == (None, 0, ())
    for i, token in enumerate(found[1:], 1):
        likeliest = next_token(prompt[:i], VOCAB)
        hit = prompt[i] == likeliest
        assert token.logprob == pytest.approx(HIT if hit else MISS, abs=1e-5)
        assert token.rank == (1 if hit else 2)
        assert token.top[0][0] == likeliest


@pytest.mark.parametrize("chunk", [5, 16, 32, 200])
@pytest.mark.parametrize("rows", [1, 7, 16, 500])
@pytest.mark.parametrize("max_tokens", [0, 1, 4])
def test_every_token_is_told_once_in_order(chunk: int, rows: int, max_tokens: int) -> None:
    bench = EngineBench(prefill_chunk_size=chunk, max_read_rows=rows)
    (end,) = bench.ends
    end.submit("a", LONG, prompt_logprobs=2, max_tokens=max_tokens)
    end.submit("b", LONG[:20], max_tokens=3)
    bench.finish()
    check(end, "a", LONG)
    assert told(end, "b") == []
    assert end.reasons("a") == [FinishReason.LENGTH]
    assert end.finished("a")[0].completion_tokens == max_tokens
    wanted = [sum(span.num_read for span in plan.spans) for plan in bench.runner.plans]
    assert max(wanted) <= rows
    bench.assert_all_free()


@pytest.mark.parametrize("length", [1, 2, 16, 17, 33])
def test_a_prompt_of_any_length_is_read_without_an_answer(length: int) -> None:
    bench = EngineBench()
    (end,) = bench.ends
    end.submit("a", LONG[:length], prompt_logprobs=0, max_tokens=0)
    bench.finish()
    assert [token.token_id for token in told(end, "a")] == LONG[:length]
    assert [token.top for token in told(end, "a")] == [()] * length
    assert len(end.finished("a")) == 1
    bench.assert_all_free()


def test_a_prompt_that_is_in_the_cache_is_read_all_the_same() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    end.submit("a", LONG, max_tokens=2)
    bench.finish()
    end.submit("b", LONG, prompt_logprobs=1, max_tokens=2)
    bench.finish()
    check(end, "b", LONG)
    assert end.finished("b")[0].cached_tokens == 0
    assert end.text("a") == end.text("b")
    end.submit("c", LONG, max_tokens=2)
    bench.finish()
    assert end.finished("c")[0].cached_tokens == 64
    stats = bench.stats()
    assert (stats.cached_tokens_total, stats.matched_tokens_total) == (64, 3 * len(LONG))
    bench.assert_all_free()


def test_a_preempted_prompt_goes_on_where_it_was_read_to() -> None:
    bench = EngineBench(num_pages=12, max_read_rows=8)
    (end,) = bench.ends
    end.submit("old", LONG[:30], max_tokens=120)
    bench.turn(3)
    end.submit("new", LONG, prompt_logprobs=1, max_tokens=60)
    bench.finish()
    assert bench.stats().num_preemptions > 0
    check(end, "new", LONG)
    bench.assert_all_free()


def test_choices_share_the_reading_of_their_prompt() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    end.submit("a", LONG, n=3, prompt_logprobs=1, max_tokens=4)
    end.submit("b", LONG, n=3, max_tokens=4)
    bench.finish()
    check(end, "a", LONG)
    assert told(end, "b") == []
    for index in range(3):
        assert end.text("a", index) == end.text("b", index)
    assert all(not delta.prompt for delta in end.deltas("a", 1))


def test_a_prompt_without_numbers_fails_alone() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    run = bench.runner.run

    def spoil(plan: Plan) -> NDArray[np.float32]:
        logits = run(plan)
        logits[:5] = np.nan
        return logits

    bench.runner.run = spoil  # type: ignore[method-assign]
    end.submit("a", LONG[:20], prompt_logprobs=1, max_tokens=2)
    bench.finish()
    bench.runner.run = run  # type: ignore[method-assign]
    end.submit("b", LONG[:20], prompt_logprobs=1, max_tokens=2)
    bench.finish()
    assert [failed.kind for failed in end.failed("a")] == ["EngineFault"]
    check(end, "b", LONG[:20])
    bench.assert_all_free()


def vector(end: FakeEnd, request_id: str) -> list[float]:
    (finished,) = end.finished(request_id)
    assert finished.completion_tokens == 0
    return np.frombuffer(finished.vector, "<f4").tolist()


def mean(prompt: list[int]) -> list[float]:
    """Of position, token and 1, which are the fake model's hidden states."""
    return pytest.approx([(len(prompt) - 1) / 2, np.mean(prompt), 1.0])


@pytest.mark.parametrize("chunk", [5, 16, 200])
def test_hidden_states_are_pooled_over_all_chunks(chunk: int) -> None:
    bench = EngineBench(prefill_chunk_size=chunk, max_read_rows=3)
    (end,) = bench.ends
    end.submit("mean", LONG, pooling="mean", max_tokens=0)
    end.submit("last", LONG, pooling="last", max_tokens=0)
    end.submit("one", LONG[:1], pooling="last", max_tokens=0)
    end.submit("text", LONG, max_tokens=5, prompt_logprobs=1)
    bench.finish()
    assert vector(end, "mean") == mean(LONG)
    assert vector(end, "last") == [74.0, float(LONG[-1]), 1.0]
    assert vector(end, "one") == [0.0, float(LONG[0]), 1.0]
    check(end, "text", LONG)
    assert end.finished("text")[0].vector == b""
    bench.assert_all_free()


def test_only_the_mean_reads_what_is_cached() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    end.submit("text", LONG, max_tokens=2)
    bench.finish()
    end.submit("mean", LONG, pooling="mean", max_tokens=0)
    end.submit("last", LONG, pooling="last", max_tokens=0)
    bench.finish()
    assert (vector(end, "mean"), vector(end, "last")[0]) == (mean(LONG), 74.0)
    assert end.finished("mean")[0].cached_tokens == 0
    assert end.finished("last")[0].cached_tokens == 64
    bench.assert_all_free()


def test_a_preempted_mean_counts_every_token_once() -> None:
    bench = EngineBench(num_pages=14, prefill_chunk_size=8)
    (end,) = bench.ends
    end.submit("old", LONG[:30], max_tokens=150)
    bench.turn(115)
    end.submit("new", LONG, pooling="mean", max_tokens=0)
    bench.finish()
    assert vector(end, "new") == mean(LONG)
    bench.assert_all_free()


def test_hidden_states_that_are_not_numbers_fail_their_request_alone() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    bench.runner.hidden = lambda: np.full((20, 3), np.nan)  # type: ignore[method-assign]
    end.submit("a", LONG[:20], pooling="mean", max_tokens=0)
    end.submit("b", LONG[:20], max_tokens=2)
    bench.finish()
    assert [failed.kind for failed in end.failed("a")] == ["EngineFault"]
    assert len(end.finished("b")) == 1
    bench.assert_all_free()


def test_nothing_of_a_prompt_is_lost_while_the_client_does_not_read() -> None:
    bench = EngineBench(prefill_chunk_size=16)
    (end,) = bench.ends
    end.submit("a", LONG, prompt_logprobs=1, max_tokens=3)
    end.is_full = True
    bench.turn(4)
    end.is_full = False
    bench.finish()
    check(end, "a", LONG)
    bench.assert_all_free()
