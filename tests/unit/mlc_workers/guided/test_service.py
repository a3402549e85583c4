"""Grammars are compiled once, in other threads, and kept within a bound."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager

import pytest

from mlc_llm.errors import BadRequest, Overloaded
from mlc_llm.ipc.wakeup import wait as wait_for
from mlc_llm.protocol.generation import Grammar
from mlc_workers.guided.service import MAX_PENDING, Compiled, GrammarService
from support.fake_grammars import ScriptedGrammar


class FakeCompiler:
    """Compiles when the gate is open; texts that begin with "bad" or "break" fail."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.compiled: list[str] = []

    def compile(self, grammar: Grammar) -> Compiled:
        self.gate.wait()
        self.compiled.append(grammar.text)
        if grammar.text.startswith("bad"):
            raise BadRequest("bad", param=grammar.param)
        if grammar.text.startswith("break"):
            raise MemoryError
        return ScriptedGrammar([1])


@contextmanager
def service(max_bytes: int = 10_000) -> Iterator[tuple[GrammarService, FakeCompiler]]:
    compiler = FakeCompiler()
    made = GrammarService(lambda: compiler, max_bytes)
    try:
        yield made, compiler
    finally:
        compiler.gate.set()
        made.close()


def grammar(text: str, param: str = "guided_regex") -> Grammar:
    return Grammar("regex", text, param)


def test_a_grammar_that_is_forgotten_or_worn_out_is_compiled_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mlc_workers.guided.service.MAX_USES", 3)
    with service() as (grammars, compiler):
        wait([grammars.ask(grammar("a"))])
        grammars.forget(grammar("a"))
        grammars.forget(grammar("unknown"))
        for _ in range(6):
            wait([grammars.ask(grammar("a"))])
        assert compiler.compiled == ["a"] * 3
        grammars.forget(grammar("a"))
        assert grammars.num_bytes == 0


def test_the_compiler_is_loaded_once_and_ahead_when_that_is_asked_for() -> None:
    loaded: list[FakeCompiler] = []

    def load() -> FakeCompiler:
        loaded.append(FakeCompiler())
        return loaded[-1]

    grammars = GrammarService(load)
    grammars.prepare()
    assert len(loaded) == 1
    wait([grammars.ask(grammar("a")), grammars.ask(grammar("b"))])
    assert sorted(loaded[0].compiled) == ["a", "b"]
    assert len(loaded) == 1
    grammars.close()


def test_a_compiler_that_cannot_be_loaded_is_tried_again_by_whoever_wants_a_grammar() -> None:
    attempts: list[None] = []

    def load() -> FakeCompiler:
        attempts.append(None)
        raise MemoryError

    grammars = GrammarService(load)
    grammars.prepare()
    assert isinstance(grammars.ask(grammar("a")).exception(), MemoryError)
    assert len(attempts) == 2
    grammars.close()


def test_requests_for_the_same_grammar_share_one_compilation() -> None:
    with service() as (grammars, compiler):
        compiler.gate.clear()
        first = grammars.ask(grammar("a"))
        assert grammars.ask(grammar("a")) is first
        compiler.gate.set()
        wait([first])
        assert grammars.ask(grammar("a")) is first
        assert compiler.compiled == ["a"]


def test_the_loop_is_woken_when_a_grammar_is_ready() -> None:
    with service() as (grammars, compiler):
        grammars.ask(grammar("a"))
        assert wait_for([grammars.wakeup], None)
        assert compiler.compiled == ["a"]


def test_what_cannot_be_used_is_remembered_and_an_accident_is_not() -> None:
    with service() as (grammars, compiler):
        for _ in range(2):
            for text in ("bad", "break"):
                wait([grammars.ask(grammar(text))])
        assert sorted(compiler.compiled) == ["bad", "break", "break"]


def test_a_refusal_names_the_field_of_each_request() -> None:
    with service() as (grammars, _):
        for param in ("guided_regex", "structured_outputs.regex"):
            error = grammars.ask(grammar("bad", param)).exception()
            assert isinstance(error, BadRequest)
            assert error.param == param


def test_a_thousand_different_grammars_stay_within_the_bound() -> None:
    with service(max_bytes=5_000) as (grammars, compiler):
        for i in range(1000):
            wait([grammars.ask(grammar(str(i)))])
        wait([grammars.ask(grammar("999"))])
        assert grammars.num_bytes <= 5_000
        assert len(compiler.compiled) == 1000
        wait([grammars.ask(grammar("0"))])
        assert compiler.compiled[-1] == "0"


def test_what_was_asked_for_last_is_kept_longest() -> None:
    with service(max_bytes=2_500) as (grammars, compiler):
        for text in ("a", "b", "a", "c", "a"):
            wait([grammars.ask(grammar(text))])
        assert compiler.compiled == ["a", "b", "c"]


def test_too_many_at_once_are_refused_and_the_others_get_theirs() -> None:
    with service() as (grammars, compiler):
        compiler.gate.clear()
        futures = [grammars.ask(grammar(str(i))) for i in range(MAX_PENDING)]
        with pytest.raises(Overloaded):
            grammars.ask(grammar("one more"))
        compiler.gate.set()
        assert all(future.result().num_bytes for future in futures)


def test_a_library_that_cannot_be_loaded_fails_the_request_only() -> None:
    def load() -> FakeCompiler:
        raise ImportError("no such library")

    grammars = GrammarService(load)
    try:
        assert isinstance(grammars.ask(grammar("a")).exception(), ImportError)
        assert isinstance(grammars.ask(grammar("b")).exception(), ImportError)
    finally:
        grammars.close()
