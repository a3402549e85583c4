"""The engine process from its first line to its exit code.

Loads nothing heavy before it can tell its clients what goes wrong: what builds the engine is named
in `BUILDER` and imported when the channels are open. Exit code 0 after an orderly end, 1 after an
error that the clients were told of, `EXIT_ORPHANED` when the client is gone.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FrameType
from typing import IO, NamedTuple, Protocol

from mlc_llm.errors import MLCError, one_line
from mlc_llm.ipc.launch import exit_with_client, receive
from mlc_llm.protocol.messages import Ready
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.started import settle_down
from mlc_workers.announce import Announcer
from mlc_workers.engine.inbox import End

BUILDER = "mlc_workers.startup:build"


class Stoppable(Protocol):
    """A built engine."""

    def run(self) -> None:
        """Serve until the clients have left, or until some time after `request_stop`."""
        ...

    def request_stop(self) -> None:
        """End soon; may be called from a signal handler."""
        ...


class Built(NamedTuple):
    """What start-up ends with."""

    engine: Stoppable
    ready: Ready


Build = Callable[[EngineSpec, Sequence[End], Announcer], Built]


def main(argv: Sequence[str], stdin: IO[bytes], builder: str = BUILDER) -> int:
    """Run the process; `argv` and `stdin` as `mlc_llm.ipc.launch` describes them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the client decides what Ctrl-C means
    try:
        arrival = receive(argv, stdin)
    except MLCError as error:
        print(f"mlc_workers: error: {one_line(error)}", file=sys.stderr)
        return 1
    exit_with_client(arrival.lifeline)
    announcer = Announcer(arrival.channels)
    try:
        engine, ready = _load(builder)(arrival.spec, arrival.channels, announcer)
    except Exception as error:
        _explain(error, arrival.spec)
        announcer.start_failed(error)
        return 1
    signal.signal(signal.SIGTERM, _stopper(engine))
    settle_down()
    announcer.ready(ready)
    try:
        engine.run()
    except Exception as error:
        _explain(error, arrival.spec)
        print(f"mlc_workers: error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _stopper(engine: Stoppable) -> Callable[[int, FrameType | None], None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        engine.request_stop()

    return stop


def _explain(error: Exception, spec: EngineSpec) -> None:
    """A traceback of what nobody expected, for whoever mends it."""
    if spec.verbose and not isinstance(error, MLCError):
        traceback.print_exception(error)


def _load(target: str) -> Build:
    module, function = target.split(":")
    loaded: Build = getattr(import_module(module), function)
    return loaded


if __name__ == "__main__":
    sys.exit(main(sys.argv, sys.stdin.buffer))
