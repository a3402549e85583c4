"""The states of an engine process, as its client sees them.

STARTING -> READY -> STOPPING -> STOPPED      it was closed
            READY -> STOPPED                  it died
            READY -> RESTARTING -> READY      it died, with restart=True
                     RESTARTING -> STOPPED    no restart succeeded
"""

from __future__ import annotations

from enum import Enum


class EngineState(Enum):
    """Where the engine process is in its life."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"


NEXT: dict[EngineState, frozenset[EngineState]] = {
    EngineState.STARTING: frozenset({EngineState.READY, EngineState.STOPPING, EngineState.STOPPED}),
    EngineState.READY: frozenset(
        {EngineState.RESTARTING, EngineState.STOPPING, EngineState.STOPPED}
    ),
    EngineState.RESTARTING: frozenset(
        {EngineState.READY, EngineState.STOPPING, EngineState.STOPPED}
    ),
    EngineState.STOPPING: frozenset({EngineState.STOPPED}),
    EngineState.STOPPED: frozenset({EngineState.STOPPING}),
}
"""A client that is closed after its engine died goes through STOPPING once more."""

WHY_UNAVAILABLE = {
    EngineState.STARTING: "The engine is starting: try again in a moment.",
    EngineState.READY: "The engine is restarting: try again in a moment.",
    EngineState.RESTARTING: "The engine is restarting: try again in a moment.",
    EngineState.STOPPING: "The engine is shutting down.",
    EngineState.STOPPED: "The engine is not running.",
}
"""What a request is told that comes at the wrong moment."""
