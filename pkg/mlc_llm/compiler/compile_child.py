"""Compile one model in a process of its own, which takes the compiler's memory along when it ends.

stdin    a `Job` as JSON in one line; then nothing, until whoever started us is gone or done
stdout   a `Report` as JSON in a line of its own, as work goes on
exit     0, or EXIT_LINK when the C compiler could not link, or 1; stderr says why
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from mlc_llm.compiler.build import LinkError, compile_to_file
from mlc_llm.compiler.job import EXIT_LINK, Job, Report
from mlc_llm.errors import MLCError
from mlc_llm.ipc.launch import exit_with_client


def main() -> int:
    """Read the job, do it, return the exit code."""
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    exit_with_client(sys.stdin.fileno())
    try:
        compile_to_file(job.spec, Path(job.path), job.compiler, _report)
    except LinkError as error:
        print(error, file=sys.stderr)
        return EXIT_LINK
    except MLCError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _report(message: str, done: float) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(Report(message, done)) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
