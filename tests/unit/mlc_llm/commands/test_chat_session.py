"""A conversation in a terminal, with answers of our own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from mlc_llm.commands.chat_session import HELP, Piece, Session
from mlc_llm.errors import BadRequest


class Terminal:
    """What a session writes, and what it asks of a model that says the number of messages."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], dict[str, Any]]] = []
        self.fails: BaseException | None = None
        self.reason = "stop"
        self._written = ""
        self.session = Session(self._answer, lambda: "counters\n", self._write)

    def type(self, line: str) -> str:
        """What is written after a line."""
        self._written = ""
        self.goes_on = self.session.line(line)
        return self._written

    def _write(self, text: str) -> None:
        self._written += text

    def _answer(
        self, messages: list[dict[str, str]], settings: Mapping[str, Any]
    ) -> Iterator[Piece]:
        self.asked.append(([one["content"] for one in messages], dict(settings)))
        yield Piece(f"{len(messages)}")
        if self.fails is not None:
            raise self.fails
        yield Piece("!")
        yield Piece("", self.reason, {"prefill_tokens_per_s": 10.04, "decode_tokens_per_s": 0})


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def test_each_line_goes_on_with_the_conversation(terminal: Terminal) -> None:
    assert terminal.type(" hello ") == "1!\n"
    assert terminal.type("more") == "3!\n"
    assert terminal.asked[-1] == (["hello", "1!", "more"], {})
    assert terminal.type("") == ""
    assert terminal.goes_on


def test_a_reset_forgets_it(terminal: Terminal) -> None:
    terminal.type("hello")
    terminal.type("/reset")
    terminal.type("again")
    assert terminal.asked[-1][0] == ["again"]


def test_settings_are_sent_and_mistakes_in_them_told(terminal: Terminal) -> None:
    assert terminal.type("/set temperature=0.5; max_tokens = 7;stop=a,b") == ""
    assert "max_tokens must be a whole number, not 'x'" in terminal.type("/set max_tokens=x")
    assert "there is no setting 'colour'" in terminal.type("/set colour=red")
    terminal.type("hi")
    assert terminal.asked[-1][1] == {"temperature": 0.5, "max_tokens": 7, "stop": ["a", "b"]}


def test_speed_and_counters_are_shown(terminal: Terminal) -> None:
    assert terminal.type("/stats") == "prefill: N/A, decode: N/A\n"
    terminal.type("hi")
    assert terminal.type("/st") == "prefill: 10.0 tok/s, decode: N/A\n"
    assert terminal.type("/metrics") == "counters\n"


def test_unknown_commands_show_the_list_and_exit_ends(terminal: Terminal) -> None:
    assert terminal.type("/dance") == HELP
    assert terminal.goes_on
    terminal.type("/exit")
    assert not terminal.goes_on


def test_an_answer_that_was_stopped_is_kept_as_far_as_it_came(terminal: Terminal) -> None:
    terminal.fails = KeyboardInterrupt()
    assert terminal.type("hi") == "1 [stopped]\n"
    terminal.fails = None
    terminal.type("go on")
    assert terminal.asked[-1][0] == ["hi", "1", "go on"]


def test_an_error_is_told_and_an_answer_that_was_cut_off(terminal: Terminal) -> None:
    terminal.fails = BadRequest("too long")
    assert "error: too long; /reset" in terminal.type("hi")
    terminal.fails, terminal.reason = None, "length"
    assert "[cut off:" in terminal.type("hi")
