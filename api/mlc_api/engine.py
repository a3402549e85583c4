"""The engine of this server, from its start: `EngineClient` once there is one, a reason before.

Knows nothing of HTTP. Loads no web framework, so that the engine process can be started first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

from mlc_llm.errors import EngineUnavailable
from mlc_llm.protocol.messages import Progress, Ready, Stats, Submit
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.serve.client.client import EngineClient
from mlc_llm.serve.client.state import EngineState
from mlc_llm.serve.client.stream import Stream

PROBLEMS = {
    EngineState.STARTING: "The engine is starting.",
    EngineState.READY: "The engine has stopped answering.",
    EngineState.RESTARTING: "The engine died and is being restarted.",
    EngineState.STOPPING: "The server is shutting down.",
    EngineState.STOPPED: "The engine is not running.",
}


class ServedEngine:
    """One engine process, restarted when it dies."""

    def __init__(
        self,
        spec: EngineSpec,
        on_progress: Callable[[Progress], None],
        command: Sequence[str] | None = None,
    ) -> None:
        """Nothing runs yet. `command` stands in for the engine program, for tests."""
        self._spec = spec
        self._on_progress = on_progress
        self._command = command
        self._client: EngineClient | None = None

    async def start(self) -> Ready:
        """Start it and return when it takes requests. Raises what the engine says."""
        self._client = await EngineClient.start(
            self._spec, on_progress=self._on_progress, restart=True, command=self._command
        )
        return self._client.ready

    async def until_given_up(self) -> NoReturn:
        """After `start`: raise `EngineDied` when the engine died and could not be restarted."""
        assert self._client is not None
        await self._client.until_given_up()

    async def stop(self) -> None:
        """End it now; what is in flight fails with `EngineUnavailable`."""
        if self._client is not None:
            await self._client.close()

    @property
    def ready(self) -> Ready:
        """The limits. Raises `EngineUnavailable` while there are none."""
        return self._require().ready

    @property
    def problem(self) -> str | None:
        """Why no request can be taken now; None when it can."""
        if self._client is None:
            return PROBLEMS[EngineState.STARTING]
        return None if self._client.healthy else PROBLEMS[self._client.state]

    def open(self, submits: Sequence[Submit]) -> Stream:
        """Send requests, all or none. Raises `EngineUnavailable`."""
        return self._require().open(submits)

    async def stats(self) -> Stats:
        """The engine's counters and gauges. Raises `EngineUnavailable`."""
        return await self._require().stats()

    async def trace(self) -> bytes:
        """Chrome trace events, as JSON. Raises `EngineUnavailable`."""
        return await self._require().trace()

    async def reset(self) -> None:
        """Abort all requests and drop all caches. Raises `EngineUnavailable`."""
        await self._require().reset()

    def _require(self) -> EngineClient:
        problem = self.problem
        if self._client is None or problem is not None:
            raise EngineUnavailable(f"{problem} Try again in a moment.")
        return self._client
