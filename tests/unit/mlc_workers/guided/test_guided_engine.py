"""Requests with a grammar inside the engine: they wait, obey, and trouble nobody else."""

from __future__ import annotations

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.generation import Grammar
from mlc_llm.protocol.messages import Abort, FinishReason, Shutdown
from mlc_workers.guided.held import PATIENCE_S
from support.fake_grammars import ManualGrammars, ScriptedGrammar
from support.fake_runner import continuation

from ..engine_bench import EOS, VOCAB, EngineBench

PROMPT = [5, 6, 7]
SAID = [11, 12, 13, 14]


def grammar(text: str = "g") -> Grammar:
    return Grammar("regex", text, "guided_regex")


def bench_with(**sizes: object) -> tuple[EngineBench, ManualGrammars]:
    grammars = ManualGrammars()
    return EngineBench(grammars=grammars, clock=lambda: 0.0, **sizes), grammars  # type: ignore[arg-type]


def plain(bench: EngineBench, num_tokens: int) -> str:
    return bench.texts.text_of(continuation(PROMPT, num_tokens, VOCAB))


def test_a_request_waits_for_its_grammar_while_others_go_on() -> None:
    bench, grammars = bench_with()
    (end,) = bench.ends
    end.submit("guided", PROMPT, max_tokens=9, grammar=grammar())
    end.submit("free", PROMPT, max_tokens=6)
    bench.finish()
    assert end.text("free") == plain(bench, 6)
    assert end.deltas("guided") == []
    grammars.ready("g", ScriptedGrammar(SAID))
    bench.finish()
    assert end.text("guided") == bench.texts.text_of(SAID)
    assert end.reasons("guided") == [FinishReason.STOP]
    assert end.finished("guided")[0].completion_tokens == len(SAID)
    bench.assert_all_free()


def test_a_request_in_company_says_what_it_says_alone() -> None:
    bench, grammars = bench_with()
    (end,) = bench.ends
    end.submit("free", PROMPT, max_tokens=8)
    end.submit("guided", PROMPT, n=2, max_tokens=9, grammar=grammar())
    bench.turn()
    grammars.ready("g", ScriptedGrammar(SAID))
    bench.finish()
    assert end.text("free") == plain(bench, 8)
    assert [end.text("guided", i) for i in (0, 1)] == [bench.texts.text_of(SAID)] * 2
    bench.assert_all_free()


def test_a_text_that_is_cut_short_ends_with_length() -> None:
    bench, grammars = bench_with()
    (end,) = bench.ends
    end.submit("a", PROMPT, max_tokens=2, grammar=grammar())
    bench.turn()
    grammars.ready("g", ScriptedGrammar(SAID))
    bench.finish()
    assert end.text("a") == bench.texts.text_of(SAID[:2])
    assert end.reasons("a") == [FinishReason.LENGTH]


def test_a_grammar_that_cannot_be_used_fails_its_request_alone_and_names_the_field() -> None:
    bench, grammars = bench_with()
    (end,) = bench.ends
    end.submit("bad", PROMPT, max_tokens=3, grammar=grammar("bad"))
    end.submit("good", PROMPT, max_tokens=3)
    bench.turn()
    grammars.ready("bad", BadRequest("`guided_regex` is bad.", param="guided_regex"))
    bench.finish()
    (failed,) = end.failed("bad")
    assert (failed.kind, failed.param) == ("BadRequest", "guided_regex")
    assert end.text("good") == plain(bench, 3)
    bench.assert_all_free()


def test_an_accident_in_the_compiler_fails_its_request_alone() -> None:
    bench, grammars = bench_with()
    (end,) = bench.ends
    end.submit("bad", PROMPT, grammar=grammar())
    bench.turn()
    grammars.ready("g", MemoryError())
    bench.finish()
    assert [failed.kind for failed in end.failed("bad")] == ["EngineFault"]


def test_a_grammar_that_takes_too_long_fails_its_request() -> None:
    now = [0.0]
    grammars = ManualGrammars()
    bench = EngineBench(grammars=grammars, clock=lambda: now[0])
    (end,) = bench.ends
    end.submit("slow", PROMPT, grammar=grammar())
    bench.turn()
    now[0] = PATIENCE_S - 1
    bench.turn()
    assert end.failed("slow") == []
    now[0] = PATIENCE_S + 1
    bench.turn()
    assert [failed.kind for failed in end.failed("slow")] == ["BadRequest"]
    grammars.ready("g", ScriptedGrammar(SAID))
    bench.finish()
    assert end.deltas("slow") == []


def test_an_abort_while_it_waits_ends_it_once() -> None:
    bench, grammars = bench_with()
    (end,) = bench.ends
    end.submit("a", PROMPT, n=2, grammar=grammar())
    bench.turn()
    end.to_engine.append(Abort("a"))
    bench.turn()
    grammars.ready("g", ScriptedGrammar(SAID))
    bench.finish()
    assert end.reasons("a") == [FinishReason.ABORT]
    assert len(end.finished("a")) == 1
    bench.assert_all_free()


def test_the_end_waits_for_held_requests_when_it_drains() -> None:
    bench, grammars = bench_with()
    (end,) = bench.ends
    end.submit("a", PROMPT, grammar=grammar())
    end.to_engine.append(Shutdown(drain=True))
    bench.turn()
    assert not end.is_closed
    grammars.ready("g", ScriptedGrammar(SAID))
    bench.finish()
    assert end.reasons("a") == [FinishReason.STOP]
    assert end.is_closed


def test_a_client_that_leaves_takes_its_held_requests_along() -> None:
    bench, grammars = bench_with(num_clients=2)
    one, two = bench.ends
    one.submit("a", PROMPT, grammar=grammar())
    two.submit("b", PROMPT, grammar=grammar())
    bench.turn()
    one.is_broken = True
    bench.turn()
    grammars.ready("g", ScriptedGrammar(SAID))
    bench.finish()
    assert two.text("b") == bench.texts.text_of(SAID)
    bench.assert_all_free()


def test_preemption_does_not_lose_the_place_in_the_grammar() -> None:
    bench, grammars = bench_with(num_pages=6, max_num_sequence=4)
    (end,) = bench.ends
    script = [(i * 7) % 90 for i in range(40)]
    for first, name in enumerate("abc"):
        end.submit(name, [first], max_tokens=60, grammar=grammar())
    bench.turn()
    grammars.ready("g", ScriptedGrammar(script))
    bench.finish()
    assert bench.stats().num_preemptions > 0
    assert {end.text(name) for name in "abc"} == {bench.texts.text_of(script)}
    bench.assert_all_free()


def test_a_mask_that_cannot_be_made_fails_its_request_alone() -> None:
    bench, grammars = bench_with()
    (end,) = bench.ends
    end.submit("bad", PROMPT, max_tokens=9, grammar=grammar())
    end.submit("good", PROMPT, max_tokens=9)
    bench.turn()
    grammars.ready("g", ScriptedGrammar(SAID, fails_at=2))
    bench.finish()
    (failed,) = end.failed("bad")
    assert (failed.kind, failed.param) == ("BadRequest", "guided_regex")
    assert "`guided_regex` is too complex to follow to the end: too many items" in failed.message
    assert grammars.futures == {}  # forgotten
    assert end.text("good") == plain(bench, 9)
    bench.assert_all_free()


def test_a_device_that_fails_leaves_no_mask_behind() -> None:
    bench, grammars = bench_with()
    (end,) = bench.ends
    run = bench.runner.run
    end.submit("bad", PROMPT, max_tokens=9, grammar=grammar())
    bench.turn()
    grammars.ready("g", ScriptedGrammar(SAID))

    def broken(plan: object) -> object:
        raise RuntimeError("the device is gone")

    bench.runner.run = broken  # type: ignore[method-assign, assignment]
    bench.turn()
    bench.runner.run = run  # type: ignore[method-assign]
    assert [failed.kind for failed in end.failed("bad")] == ["EngineFault"]
    end.submit("good", PROMPT, max_tokens=9, grammar=grammar())
    bench.finish()
    assert end.text("good") == bench.texts.text_of(SAID)


def test_the_limits_of_prompts_hold_before_anything_is_compiled() -> None:
    bench, grammars = bench_with()
    (end,) = bench.ends
    end.submit("long", [1] * 600, grammar=grammar())
    bench.turn()
    assert [failed.kind for failed in end.failed("long")] == ["PromptTooLong"]
    assert grammars.futures == {}


def test_an_engine_without_grammars_says_so() -> None:
    bench = EngineBench()
    (end,) = bench.ends
    end.submit("a", PROMPT, grammar=grammar(), stop_token_ids=(EOS,))
    bench.turn()
    assert [failed.param for failed in end.failed("a")] == ["guided_regex"]
