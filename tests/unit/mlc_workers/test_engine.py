"""The engine as its clients see it."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from mlc_llm.errors import EngineFault
from mlc_llm.ipc.heartbeat import Phase as Beat
from mlc_llm.ipc.wakeup import Wakeup
from mlc_llm.protocol.messages import Abort, FinishReason, Query, Shutdown, Stats
from mlc_llm.tracing.recorder import Recorder
from mlc_workers.scheduler.plan import Plan
from support.fake_runner import continuation
from support.fake_sampler import BAD_SEED

from .engine_bench import EOS, VOCAB, EngineBench

PROMPT = [5, 6, 7]


def expected(prompt: list[int], num_tokens: int, *, shift: int = 0) -> list[int]:
    return continuation(prompt, num_tokens, VOCAB, shift=shift)


def test_a_request_ends_once_with_its_text_and_its_sums() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    end.submit("a", PROMPT, max_tokens=10)
    bench.finish()
    assert end.text("a") == bench.texts.text_of(expected(PROMPT, 10))
    assert end.reasons("a") == [FinishReason.LENGTH]
    (finished,) = end.finished("a")
    assert (finished.prompt_tokens, finished.completion_tokens) == (3, 10)
    assert finished.queue_s > 0
    assert finished.prefill_s > 0
    assert finished.decode_s > 0
    bench.assert_all_free()


def test_all_news_of_a_step_for_one_client_travel_in_one_frame() -> None:
    bench = EngineBench(num_clients=2)
    one, two = bench.ends
    one.submit("a", [1], max_tokens=3)
    one.submit("b", [2], max_tokens=3)
    two.submit("a", [3], max_tokens=3)
    bench.finish()
    assert [len(output.deltas) for output in one.outputs()] == [2, 2, 2]
    assert [len(output.deltas) for output in two.outputs()] == [1, 1, 1]
    assert two.text("a") == bench.texts.text_of(expected([3], 3))


def test_choices_have_their_own_texts_and_the_prompt_is_counted_once() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    end.submit("a", PROMPT, n=3, max_tokens=5)
    bench.finish()
    for index in range(3):
        assert end.text("a", index) == bench.texts.text_of(expected(PROMPT, 5, shift=index))
    (finished,) = end.finished("a")
    assert (finished.prompt_tokens, finished.completion_tokens) == (3, 15)
    stats = bench.stats()
    assert stats.prefill_tokens_total == 3
    assert stats.step_tokens[:3] == [0, stats.num_steps, 0]  # the prompt's three, then three decode
    assert stats.step_tokens_total == 3 + 3 * (stats.num_steps - 1)


def test_an_end_token_ends_the_answer_and_shows_as_no_text() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    tokens = expected(PROMPT, 6)
    end.submit("a", PROMPT, stop_token_ids=(tokens[4],))
    bench.finish()
    assert end.text("a") == bench.texts.text_of(tokens[:4])
    assert end.reasons("a") == [FinishReason.STOP]
    assert end.finished("a")[0].completion_tokens == 5


def test_ignore_eos_ignores_the_models_end_token_and_no_other() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    prompt = next([t] for t in range(VOCAB) if EOS in expected([t], 60)[:50])
    tokens = expected(prompt, 60)
    other = next(t for t in tokens[tokens.index(EOS) + 1 :] if t not in tokens[: tokens.index(EOS)])
    end.submit("a", prompt, stop_token_ids=(EOS,))
    end.submit("b", prompt, stop_token_ids=(EOS,), ignore_eos=True, max_tokens=60)
    end.submit("c", prompt, stop_token_ids=(EOS, other), ignore_eos=True)
    bench.finish()
    assert end.finished("a")[0].completion_tokens == tokens.index(EOS) + 1
    assert end.finished("b")[0].completion_tokens == 60
    assert end.finished("c")[0].completion_tokens == tokens.index(other) + 1


def test_an_end_token_before_min_tokens_is_text() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    tokens = expected(PROMPT, 6)
    end.submit("a", PROMPT, stop_token_ids=(tokens[1],), min_tokens=4, max_tokens=6)
    bench.finish()
    assert end.text("a").startswith(bench.texts.text_of(tokens[:4]))


def test_a_stop_string_ends_the_answer_and_is_not_shown() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    tokens = expected(PROMPT, 8)
    end.submit("a", PROMPT, stop_strs=(bench.texts.text_of(tokens[5:7]),))
    bench.finish()
    assert end.text("a") == bench.texts.text_of(tokens[:5])
    assert end.reasons("a") == [FinishReason.STOP]


def test_text_held_for_a_stop_string_comes_out_at_the_end() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    tokens = expected(PROMPT, 8)
    never = bench.texts.text_of([*tokens[6:8], 0])
    end.submit("a", PROMPT, stop_strs=(never,), max_tokens=8)
    bench.finish()
    assert end.text("a") == bench.texts.text_of(tokens)


def test_logprobs_carry_the_bytes_of_tokens() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    end.submit("a", PROMPT, max_tokens=1, logprobs=True)
    bench.finish()
    (logprob,) = end.deltas("a")[0].logprobs
    assert logprob.token.decode() == end.text("a")
    assert logprob.top == ((logprob.token, -0.5),)


def test_no_tokens_asked_for_ends_at_once() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    end.submit("a", PROMPT, max_tokens=0, n=2)
    bench.turn()
    assert end.reasons("a", 1) == [FinishReason.LENGTH]
    assert end.finished("a")[0].completion_tokens == 0
    bench.assert_all_free()


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
def test_an_abort_in_any_phase_ends_the_request_once_and_frees_its_pages(turns: int) -> None:
    bench = EngineBench()
    (end,) = bench.ends
    end.submit("a", [1] * 40, n=2)
    bench.turn(turns)
    end.to_engine += [Abort("a"), Abort("a")]
    bench.turn()
    assert end.reasons("a", 0) == [FinishReason.ABORT]
    assert end.reasons("a", 1) == [FinishReason.ABORT]
    assert len(end.finished("a")) == 1
    bench.assert_all_free()
    assert not bench.engine.turn()


def test_an_abort_of_an_unknown_request_is_ignored() -> None:
    bench = EngineBench()
    bench.ends[0].to_engine.append(Abort("never"))
    bench.turn()
    assert bench.ends[0].frames == []


def test_an_abort_concerns_its_own_client_only() -> None:
    bench = EngineBench(num_clients=2)
    one, two = bench.ends
    one.submit("a", PROMPT, max_tokens=5)
    bench.turn()
    two.to_engine.append(Abort("a"))
    bench.finish()
    assert one.reasons("a") == [FinishReason.LENGTH]


def test_a_name_can_be_used_again_after_an_abort() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    end.submit("a", PROMPT)
    bench.turn(2)
    end.to_engine.append(Abort("a"))
    end.submit("a", [9], max_tokens=4)
    end.is_full = True
    bench.turn(3)
    end.is_full = False
    bench.finish()
    assert end.reasons("a") == [FinishReason.ABORT, FinishReason.LENGTH]
    assert end.text("a").endswith(bench.texts.text_of(expected([9], 4)))
    assert end.deltas("a")[-1].num_tokens == 4


def test_a_full_channel_merges_the_news_and_loses_none() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    end.submit("a", PROMPT, n=2, max_tokens=20, logprobs=True)
    bench.turn(3)
    end.is_full = True
    bench.turn(8)
    assert len(bench.engine.clients[0].outbox.deltas) == 2
    end.is_full = False
    bench.turn()
    assert [delta.num_tokens for delta in end.outputs()[3].deltas] == [9, 9]
    assert len(end.outputs()[3].deltas[0].logprobs) == 9
    bench.finish()
    for index in (0, 1):
        assert end.text("a", index) == bench.texts.text_of(expected(PROMPT, 20, shift=index))
        assert sum(delta.num_tokens for delta in end.deltas("a", index)) == 20


def test_a_client_that_does_not_read_does_not_hold_up_another() -> None:
    bench = EngineBench(num_clients=2)
    one, two = bench.ends
    one.is_full = True
    one.submit("a", [1], max_tokens=5)
    two.submit("b", [2], max_tokens=5)
    bench.finish()
    assert two.reasons("b") == [FinishReason.LENGTH]
    one.is_full = False
    bench.turn()
    assert one.text("a") == bench.texts.text_of(expected([1], 5))


@pytest.mark.parametrize(
    ("prompt", "settings", "kind"),
    [
        ([], {}, "BadRequest"),
        ([VOCAB], {}, "BadRequest"),
        ([-1], {}, "BadRequest"),
        ([1] * 600, {}, "PromptTooLong"),
        ([1], {"n": 0}, "BadRequest"),
        ([1], {"seed": BAD_SEED}, "EngineFault"),
        ([1], {"stop_strs": (None,)}, "EngineFault"),
    ],
)
def test_what_is_wrong_with_one_request_fails_that_request_only(
    prompt: list[int], settings: dict[str, object], kind: str
) -> None:
    bench = EngineBench()
    (end,) = bench.ends
    end.submit("good", PROMPT, max_tokens=6)
    bench.turn(2)
    end.submit("bad", prompt, **settings)
    bench.finish()
    assert [failed.kind for failed in end.failed("bad")] == [kind]
    assert end.finished("bad") == []
    assert end.deltas("bad") == []
    assert end.text("good") == bench.texts.text_of(expected(PROMPT, 6))
    bench.assert_all_free()


def test_a_sampler_that_raises_fails_only_the_row_it_raises_for() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    sample = bench.sampler.sample

    def raising(logits: NDArray[np.float32], memories: list[object], masks: object) -> object:
        if any(memory == (7, 0) for memory in memories):
            raise FloatingPointError("a row is not a number")
        return sample(logits, memories)

    bench.sampler.sample = raising  # type: ignore[method-assign, assignment]
    end.submit("good", PROMPT, max_tokens=4)
    end.submit("bad", PROMPT, seed=7)
    bench.finish()
    assert [failed.kind for failed in end.failed("bad")] == ["EngineFault"]
    assert end.text("good") == bench.texts.text_of(expected(PROMPT, 4))
    bench.assert_all_free()


def test_a_second_request_with_a_live_name_is_refused() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    end.submit("a", PROMPT, max_tokens=4)
    end.submit("a", PROMPT, max_tokens=4)
    bench.finish()
    assert [failed.kind for failed in end.failed("a")] == ["DuplicateRequest"]
    assert len(end.finished("a")) == 1


def test_a_device_failure_ends_the_requests_in_the_step_and_the_next_one_works() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    run = bench.runner.run
    bench.runner.run = broken_run  # type: ignore[method-assign]
    end.submit("a", PROMPT)
    bench.turn()
    assert [failed.kind for failed in end.failed("a")] == ["EngineFault"]
    bench.assert_all_free()
    bench.runner.run = run  # type: ignore[method-assign]
    end.submit("b", PROMPT, max_tokens=3)
    bench.finish()
    assert end.reasons("b") == [FinishReason.LENGTH]


def test_a_device_that_fails_again_and_again_ends_the_engine_after_telling_everybody() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    bench.runner.run = broken_run  # type: ignore[method-assign]
    for number in range(3):
        end.submit(f"r{number}", PROMPT)
        if number < 2:
            bench.turn()
    with pytest.raises(EngineFault, match="times in a row"):
        bench.turn()
    assert sum(len(output.failed) for output in end.outputs()) == 3


def broken_run(plan: Plan) -> NDArray[np.float32]:
    raise RuntimeError("out of memory")


def test_a_broken_channel_loses_its_client_and_its_requests_only() -> None:
    bench = EngineBench(num_clients=2)
    one, two = bench.ends
    one.submit("a", [1] * 40)
    two.submit("b", PROMPT, max_tokens=8)
    bench.turn(2)
    one.is_broken = True
    bench.finish()
    assert one.is_closed
    assert two.reasons("b") == [FinishReason.LENGTH]
    bench.assert_all_free()


def test_shutdown_fails_what_runs_and_a_drained_shutdown_does_not() -> None:
    bench = EngineBench(num_clients=2)
    hasty, patient = bench.ends
    hasty.submit("a", PROMPT, max_tokens=9)
    patient.submit("b", PROMPT, max_tokens=9)
    bench.turn(2)
    hasty.to_engine.append(Shutdown())
    patient.to_engine.append(Shutdown(drain=True))
    patient.submit("late", PROMPT)
    bench.engine.run()
    assert [failed.kind for failed in hasty.failed("a")] == ["EngineUnavailable"]
    assert patient.reasons("b") == [FinishReason.LENGTH]
    assert [failed.kind for failed in patient.failed("late")] == ["EngineUnavailable"]
    assert hasty.is_closed
    assert patient.is_closed


def test_statistics_and_reset_are_answered() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    end.submit("a", [1] * 20, max_tokens=20)
    bench.finish()
    end.submit("b", [1] * 20)
    bench.turn(2)
    end.to_engine.append(Query(1, "stats"))
    end.to_engine.append(Query(2, "reset"))
    end.to_engine.append(Query(3, "unheard of"))
    bench.turn()
    stats, reset, unknown = end.replies()
    before = msgspec.json.decode(stats.body, type=Stats)
    assert (before.num_running, before.requests_finished["length"]) == (1, 1)
    assert before.prompt_tokens_total == 40
    assert before.kv_pages_cached > 0
    assert (reset.query_id, unknown.body) == (2, b"null")
    assert end.reasons("b") == [FinishReason.ABORT]
    assert bench.kv.pool.num_free == 32


def test_the_heartbeat_tells_busy_from_idle() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    bench.turn()
    assert end.reader.read().phase is Beat.IDLE
    end.submit("a", PROMPT, max_tokens=4)
    bench.turn(2)
    beat = end.reader.read()
    assert (beat.phase, beat.steps) == (Beat.BUSY, 2)
    bench.finish()
    assert end.reader.read().phase is Beat.IDLE


def test_the_trace_names_what_happened_to_each_request() -> None:
    recorder = Recorder()
    bench = EngineBench(recorder=recorder, clock=time.monotonic)
    (end,) = bench.ends
    end.submit("a", [1] * 40, max_tokens=2)
    bench.finish()
    end.to_engine.append(Query(1, "trace"))
    bench.turn()
    events = msgspec.json.decode(end.replies()[0].body)
    of_request = [(event["name"], event["ph"]) for event in events if event["tid"] == "a"]
    assert of_request[:2] == [("receive request (0)", "i"), ("request added to engine (0)", "i")]
    assert of_request.count(("prefill (1)", "E")) == 1
    assert of_request.count(("decode (0)", "B")) == 1
    assert ("yield delta output (1)", "i") in of_request
    assert of_request[-2][0] in ("finish (0)", "detokenization (1)")
    assert {event["pid"] for event in events} == {1}


def test_a_requested_stop_fails_what_runs_and_ends_the_loop() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    end.wakeup = Wakeup.create()
    end.submit("a", PROMPT)
    bench.turn(2)
    bench.engine.request_stop()
    bench.engine.run()
    assert [failed.kind for failed in end.failed("a")] == ["EngineUnavailable"]
    assert end.reasons("a") == []
    assert end.is_closed
    end.wakeup.close()


def test_a_client_that_does_not_read_cannot_hold_up_a_requested_stop() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    end.wakeup = Wakeup.create()
    end.submit("a", PROMPT)
    end.is_full = True
    bench.turn(2)
    bench.engine.request_stop()
    bench.engine.run()
    assert bench.engine.clients
    end.wakeup.close()
