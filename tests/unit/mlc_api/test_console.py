"""Start-up is told calmly: a line per fact, not a line per percent."""

from __future__ import annotations

import pytest

from mlc_api.console import Console
from mlc_llm.protocol.messages import Progress


def test_a_quick_stage_says_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console("info", clock=lambda: 5.0)
    for percent in range(0, 101, 10):
        console.progress(Progress("load", "loading the weights", percent / 100))
    assert capsys.readouterr().out.splitlines() == ["    load   0%  loading the weights"]


def test_a_slow_stage_is_told_again_as_time_goes_by(capsys: pytest.CaptureFixture[str]) -> None:
    now = iter([0.0, 0.4, 1.0, 1.5, 2.1])
    console = Console("info", clock=lambda: next(now))
    for percent in (0, 10, 20, 30, 40):
        console.progress(Progress("load", "loading the weights", percent / 100))
    shares = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert shares == ["0%", "20%", "40%"]


def test_a_quiet_server_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Console("warning").stopping()
    assert capsys.readouterr().out == ""


def test_a_name_with_a_line_break_makes_no_second_line(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console("info")
    console.progress(Progress("decide", "reading a\nb\x1b[31m", None))
    console.decisions(["library: a\nb"])
    console.address("a\nb", "::1", 80, "http")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["  decide  reading a\\nb\\x1b[31m", " decided  library: a\\nb"]
    assert lines[2].startswith("Serving a\\nb on http://[::1]:80 ")
    assert len(lines) == 3
