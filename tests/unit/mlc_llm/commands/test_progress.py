"""What a long command says about its end."""

from __future__ import annotations

import pytest

from mlc_llm.commands.progress import Estimate


def test_the_end_is_estimated_once_enough_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 0.5, 2.0, 2.5, 10.0, 20.0])
    estimate = Estimate("converting", lambda: next(times))
    for done in (1, 1, 40, 50, 100):
        estimate(done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "converting   1%",
        "converting  50%, about 10 s left",
        "converting 100%, about 0 s left",
    ]
