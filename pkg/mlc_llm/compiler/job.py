"""Have a model compiled by a child process, and follow its progress. Loads no compiler."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

import mlc_llm
from mlc_llm.compiler.artifact import LibrarySpec
from mlc_llm.errors import BadModel

CHILD = (sys.executable, "-m", "mlc_llm.compiler.compile_child")
EXIT_LINK = 3
LAST_LINES = 20
"""Lines of the child's output that are kept for an error message."""

Progress = Callable[[str, str, float | None], None]
"""Called with a stage, a message, and how much of the stage is done (None: unknown)."""


class Job(Struct, frozen=True):
    """What the child is to compile, to which file, linked by which command."""

    spec: LibrarySpec
    path: str
    compiler: tuple[str, ...]


class Report(Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the child's output."""

    message: str
    done: float


class LinkFailed(Exception):
    """The C compiler of this machine does not link shared libraries; str() is its last word."""


def compile_in_child(job: Job, progress: Progress, command: Sequence[str] = CHILD) -> None:
    """Do the job in a child process. Raises `LinkFailed`, or `BadModel` for any other failure."""
    last: deque[str] = deque(maxlen=LAST_LINES)
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(),
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it may be dead already
            child.stdin.write(msgspec.json.encode(job) + b"\n")
            child.stdin.flush()
        # stdin stays open: its end tells the child that nobody waits for the library any more
        for line in child.stdout:
            try:
                report = msgspec.json.decode(line, type=Report)
            except msgspec.MsgspecError:
                last.append(line.decode(errors="replace").rstrip())
            else:
                progress("compile", report.message, report.done)
    words = next((line for line in reversed(last) if line), f"exit code {child.returncode}")
    if child.returncode == EXIT_LINK:
        raise LinkFailed(words)
    if child.returncode:
        raise BadModel(f"the model could not be compiled: {words}")


def _environment() -> dict[str, str]:
    """Ours, with this package importable as it is here, installed or not."""
    rooms = [str(Path(mlc_llm.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, rooms))}
