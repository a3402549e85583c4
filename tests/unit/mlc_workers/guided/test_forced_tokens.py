"""Tokens that a grammar forces are taken without sampling; nothing else of an answer changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mlc_llm.protocol.generation import Grammar
from mlc_llm.protocol.messages import Abort, FinishReason
from support.fake_grammars import ManualGrammars, Script, ScriptedGrammar

from ..engine_bench import EngineBench

GRAMMAR = Grammar("regex", "g", "guided_regex")
LONG = [*range(10, 30), [1, 2, 3], *range(40, 70), [4, 5], 6]


def run(script: Script, requests: Sequence[dict[str, Any]], tells: bool, **sizes: Any) -> Any:
    """What clients saw of the requests, and the bench."""
    grammars = ManualGrammars()
    bench = EngineBench(grammars=grammars, clock=lambda: 0.0, **sizes)
    (end,) = bench.ends
    for number, request in enumerate(requests):
        guided = {"grammar": GRAMMAR} if number % 3 < 2 else {}
        end.submit(f"r{number}", **{"max_tokens": 30, **guided, **request})
    bench.turn()
    grammars.futures.setdefault("g", grammars.ask(GRAMMAR))
    grammars.ready("g", ScriptedGrammar(script, tells=tells))
    bench.finish()
    bench.assert_all_free()
    seen = []
    for number, request in enumerate(requests):
        name = f"r{number}"
        finished = [(f.prompt_tokens, f.completion_tokens) for f in end.finished(name)]
        for index in range(request.get("n", 1)):
            tokens = sum(delta.num_tokens for delta in end.deltas(name, index))
            seen.append((end.text(name, index), tokens, end.reasons(name, index), finished))
        assert not end.failed(name)
    return seen, bench


SCRIPTS = st.lists(
    st.integers(0, 90) | st.lists(st.integers(0, 90), min_size=1, max_size=5, unique=True),
    min_size=1,
    max_size=60,
)
REQUESTS = st.lists(
    st.fixed_dictionaries(
        {"prompt": st.lists(st.integers(0, 90), min_size=1, max_size=40)},
        optional={
            "n": st.integers(1, 3),
            "max_tokens": st.integers(1, 50),
            "stop_strs": st.just((chr(0x4E00 + 7),)),
            "logprobs": st.booleans(),
            "stop_token_ids": st.just((8, 9)),
            "min_tokens": st.integers(0, 10),
        },
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(
    script=SCRIPTS,
    requests=REQUESTS,
    chunk=st.integers(4, 40),
    num_pages=st.integers(10, 32),
    mode=st.sampled_from(["hybrid", "chunked"]),
)
def test_answers_are_those_that_are_sampled_token_by_token(
    script: Script, requests: list[dict[str, Any]], chunk: int, num_pages: int, mode: str
) -> None:
    sizes = {"num_pages": num_pages, "prefill_chunk_size": chunk, "prefill_mode": mode}
    forced, _ = run(script, requests, tells=True, **sizes)
    sampled, _ = run(script, requests, tells=False, **sizes)
    assert forced == sampled


def test_forced_tokens_go_through_one_step() -> None:
    request = {"prompt": [5, 6, 7], "max_tokens": 100}
    _, forced = run(LONG, [request], tells=True, prefill_chunk_size=64)
    _, sampled = run(LONG, [request], tells=False, prefill_chunk_size=64)
    assert len(sampled.runner.plans) == len(LONG)
    assert len(forced.runner.plans) == 3
    spans = [len(plan.spans[0].tokens) for plan in forced.runner.plans]
    assert spans == [3, 20, 31]
    counted = [bench.engine.counters.generation_tokens for bench in (forced, sampled)]
    assert counted == [len(LONG)] * 2


def test_many_forced_tokens_leave_room_for_others_in_every_step() -> None:
    requests: list[dict[str, Any]] = [{"prompt": [token]} for token in (5, 6, 7)]
    _, bench = run(LONG, requests, tells=True, prefill_chunk_size=8)
    plans = bench.runner.plans
    assert max(plan.num_tokens for plan in plans) == 8
    (free,) = {span.row for span in plans[0].spans}
    assert all(free in {span.row for span in plan.spans} for plan in plans[:30])


def test_answers_with_log_probabilities_are_sampled_token_by_token() -> None:
    request = {"prompt": [5, 6, 7], "max_tokens": 100, "logprobs": True}
    _, bench = run(LONG, [request], tells=True)
    assert len(bench.runner.plans) == len(LONG)
    deltas = bench.ends[0].deltas("r0")
    assert [len(delta.logprobs) for delta in deltas] == [1] * len(LONG)


def test_the_sampler_hears_of_every_token_in_order() -> None:
    grammars = ManualGrammars()
    bench = EngineBench(grammars=grammars, clock=lambda: 0.0)
    heard: list[int] = []
    bench.sampler.observe = lambda memory, token_id: heard.append(token_id)  # type: ignore[method-assign]
    bench.ends[0].submit("a", [1, 2], max_tokens=100, grammar=GRAMMAR)
    bench.turn()
    grammars.ready("g", ScriptedGrammar([1, 2, 3, [4], [5, 6], 7, 8], tells=True))
    bench.finish()
    assert heard == [2, 3, 4, 7, 8]


def test_a_limit_of_tokens_cuts_forced_tokens_short() -> None:
    seen, bench = run(LONG, [{"prompt": [5], "max_tokens": 7}], tells=True)
    assert seen == [(bench.texts.text_of(LONG[:7]), 7, [FinishReason.LENGTH], [(1, 7)])]


def test_a_stop_string_among_forced_tokens_ends_the_answer_there() -> None:
    stop = EngineBench().texts.text_of([14])
    seen, bench = run(LONG, [{"prompt": [5], "stop_strs": (stop,)}], tells=True)
    assert seen == [(bench.texts.text_of(LONG[:4]), 5, [FinishReason.STOP], [(1, 5)])]


def test_an_abort_leaves_nothing_of_forced_tokens_that_were_not_computed() -> None:
    grammars = ManualGrammars()
    bench = EngineBench(grammars=grammars, clock=lambda: 0.0, prefill_chunk_size=4)
    (end,) = bench.ends
    end.submit("a", [1, 2], n=2, max_tokens=100, grammar=GRAMMAR)
    bench.turn()
    grammars.ready("g", ScriptedGrammar(LONG, tells=True))
    bench.turn(3)
    end.to_engine.append(Abort("a"))
    bench.finish()
    assert end.reasons("a") == [FinishReason.ABORT]
    bench.assert_all_free()
