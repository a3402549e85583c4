"""What the server prints for the person who started it: one line per fact, on standard output."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable

from mlc_llm.errors import one_line
from mlc_llm.protocol.messages import Progress

PROGRESS_SECONDS = 1.0
"""A stage with a known end is reported again after this long; a quick one says one line."""


class Console:
    """Prints from log level info on; silent above."""

    def __init__(self, log_level: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._silent = log_level in ("warning", "error")
        self._clock = clock
        self._told: tuple[str, str] | None = None
        self._told_at = 0.0

    def progress(self, progress: Progress) -> None:
        """What the engine is doing while it starts."""
        told = (progress.stage, progress.message)
        fraction = progress.fraction
        now = self._clock()
        if told == self._told and (fraction is None or now - self._told_at < PROGRESS_SECONDS):
            return
        self._told, self._told_at = told, now
        share = f" {fraction:4.0%}" if fraction is not None else ""
        self._say(f"{progress.stage:>8}{share}  {one_line(progress.message)}")

    def decisions(self, decisions: Iterable[str]) -> None:
        """What was chosen at start-up, and why."""
        for decision in decisions:
            self._say(f"{'decided':>8}  {one_line(decision)}")

    def address(self, model: str, host: str, port: int, scheme: str = "http") -> None:
        """Where to send requests."""
        shown = f"[{host}]" if ":" in host else host
        url = f"{scheme}://{shown}:{port}"
        self._say(
            f"Serving {one_line(model)} on {url} "
            f"(OpenAI's base_url is {url}/v1, endpoints: {url}/docs)"
        )

    def stopping(self) -> None:
        """The first signal has come."""
        self._say("Stopping; running answers have a few seconds. Ctrl-C ends at once.")

    def _say(self, line: str) -> None:
        if self._silent:
            return
        try:
            print(line, flush=True)
        except OSError:  # whoever read it has gone, or the disk is full: serving goes on
            self._silent = True
            # what is still in the buffer must not spoil the exit
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
