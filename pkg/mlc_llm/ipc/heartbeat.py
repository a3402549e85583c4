"""Four words in shared memory by which a client tells a busy engine from a stuck one.

    byte 0    steps      u64   engine steps since its start
    byte 8    stepped    u64   when the last one ended, CLOCK_MONOTONIC in ns; 0: none yet
    byte 16   beat       u64   when the engine last went round its loop, step or not, same clock
    byte 24   phase      u64   a `Phase`

Only the engine stores them, each with one 8-byte store. A reader may see words of two beats side by
side; each is true by itself and nothing is derived from them together.
"""

from __future__ import annotations

import time
from enum import IntEnum

from msgspec import Struct

HEARTBEAT_BYTES = 64
_STEPS, _STEPPED, _BEAT, _PHASE = range(4)


class Phase(IntEnum):
    """What the engine is doing."""

    STARTING = 0
    IDLE = 1
    BUSY = 2
    STOPPING = 3


class Heartbeat(Struct, frozen=True, gc=False):
    """One look at a running engine."""

    steps: int
    """Steps since its start."""
    since_step_s: float | None
    """Seconds since the last step ended; None: no step yet."""
    since_beat_s: float
    """Seconds since it last went round its loop; an idle engine does so every second."""
    phase: Phase

    @property
    def busy(self) -> bool:
        """Whether it has requests to work on."""
        return self.phase is Phase.BUSY


class HeartbeatWriter:
    """The engine's side."""

    def __init__(self, memory: memoryview) -> None:
        self._words = memory[:HEARTBEAT_BYTES].cast("Q")
        self._steps = 0
        self.beat(Phase.STARTING)

    def beat(self, phase: Phase) -> None:
        """Say that the loop goes round; at least once a second, also when idle."""
        self._words[_PHASE] = phase
        self._words[_BEAT] = time.monotonic_ns()

    def stepped(self) -> None:
        """Say that a step has ended."""
        self._steps += 1
        self._words[_STEPS] = self._steps
        self._words[_STEPPED] = self._words[_BEAT] = time.monotonic_ns()

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()


class HeartbeatReader:
    """The client's side; counts from its own creation until the engine beats for the first time."""

    def __init__(self, memory: memoryview) -> None:
        self._words = memory[:HEARTBEAT_BYTES].cast("Q")
        self._created = time.monotonic_ns()

    def read(self) -> Heartbeat:
        """The words as they are now."""
        now = time.monotonic_ns()
        stepped = self._words[_STEPPED]
        beat = self._words[_BEAT] or self._created
        phase = self._words[_PHASE]
        return Heartbeat(
            steps=self._words[_STEPS],
            since_step_s=max(0, now - stepped) / 1e9 if stepped else None,
            since_beat_s=max(0, now - beat) / 1e9,
            phase=Phase(phase) if phase in Phase._value2member_map_ else Phase.STARTING,
        )

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
