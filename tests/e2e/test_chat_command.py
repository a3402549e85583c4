"""`mlc_llm chat` with the packaged model, its lines from a pipe."""

from __future__ import annotations

import subprocess
import sys

from support.server import environment


def test_lines_are_answered_until_there_are_no_more() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlc_llm", "chat"],
        env=environment(),
        input="/set temperature=0\nWhat is the capital of Norway?\n/stats\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Oslo" in done.stdout
    assert " tok/s" in done.stdout
    assert done.stderr == ""
