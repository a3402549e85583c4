"""What the engine says before it serves: progress, then that it is ready or that it failed."""

from __future__ import annotations

from collections.abc import Sequence

from mlc_llm.errors import WIRE_ERRORS, EngineFault
from mlc_llm.ipc.channel import ChannelBroken
from mlc_llm.ipc.wakeup import wait
from mlc_llm.protocol.messages import FromEngine, Progress, Ready, StartFailed
from mlc_workers.engine.inbox import End

RETRY_S = 0.5


class Announcer:
    """Speaks to all clients at once."""

    def __init__(self, ends: Sequence[End]) -> None:
        self._ends = ends

    def progress(self, stage: str, message: str, fraction: float | None = None) -> None:
        """Say what is being done; lost on a client that does not read, the next one replaces it."""
        for end in self._ends:
            end.send(Progress(stage, message, fraction))

    def ready(self, ready: Ready) -> None:
        """Start-up is over."""
        for end in self._ends:
            _deliver(end, ready)

    def start_failed(self, error: Exception) -> None:
        """Start-up is over, and nothing will be served."""
        kind = next((name for name, one in WIRE_ERRORS.items() if type(error) is one), None)
        if kind is None:
            kind = EngineFault.__name__
            message = f"the engine failed to start: {type(error).__name__}: {error}"
        else:
            message = str(error)
        message = " ".join(message.split())
        for end in self._ends:
            _deliver(end, StartFailed(kind, message))


def _deliver(end: End, message: FromEngine) -> None:
    """Send, and wait until all of it has gone; a client that is gone ends the process meanwhile."""
    try:
        while not end.send(message):
            wait([end.wakeup], RETRY_S)
        while not end.flush():
            wait([end.wakeup], RETRY_S)
    except ChannelBroken:
        return
