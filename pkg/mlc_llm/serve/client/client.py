"""The asyncio client of the engine process: requests in, streams of updates out.

Knows processes, messages and streams. Knows nothing of HTTP, text templates or tensors. Used by the
web process and, through a thread of its own, by `MLCEngine`; it works on asyncio and uvloop.
Everything belongs to the loop in which `start` was awaited.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import NoReturn, assert_never

import msgspec

from mlc_llm.errors import (
    BadConfig,
    EngineDied,
    EngineUnavailable,
    MLCError,
    Overloaded,
    PromptTooLong,
)
from mlc_llm.ipc.heartbeat import Heartbeat
from mlc_llm.protocol.messages import (
    PROTOCOL_VERSION,
    FromEngine,
    Progress,
    Query,
    Ready,
    Reply,
    StartFailed,
    Stats,
    StepOutput,
    Submit,
)
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.serve.client.link import EngineLink
from mlc_llm.serve.client.requests import LiveRequests, error_of
from mlc_llm.serve.client.state import NEXT, WHY_UNAVAILABLE, EngineState
from mlc_llm.serve.client.stream import Stream

STUCK_AFTER_S = 60.0
"""An engine that has not gone round its loop for this long is not healthy: longer than any step."""
MAX_FAILED_STARTS = 6
"""Restarts that may fail one after the other before there will be no more: about six seconds."""
MAX_PROMPT_BYTES = 32 << 20
MAX_WAITING_BYTES = 64 << 20
"""Of requests that an engine, suspended or busy, has not taken yet."""
_FIRST_DELAY_S = 0.1
"""Before the first restart; doubled after each that failed."""

_log = logging.getLogger(__name__)


class EngineClient:
    """One engine process and everything that is asked of it."""

    def __init__(
        self,
        spec: EngineSpec,
        on_progress: Callable[[Progress], None] | None,
        restart: bool,
        command: Sequence[str] | None,
    ) -> None:
        """Nothing runs yet: use `start`."""
        self._spec = spec
        self._on_progress = on_progress
        self._restart = restart
        self._command = command
        self._state = EngineState.STARTING
        self._state_changed = asyncio.Event()
        self._link: EngineLink | None = None
        self._ready: Ready | None = None
        self._starting: asyncio.Future[Ready] | None = None
        self._requests = LiveRequests(self._send_abort)
        self._queries: dict[int, asyncio.Future[bytes]] = {}
        self._query_ids = itertools.count(1)
        self._restarting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._given_up = asyncio.Event()

    @classmethod
    async def start(
        cls,
        spec: EngineSpec,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        restart: bool = False,
        command: Sequence[str] | None = None,
    ) -> EngineClient:
        """Start an engine process and return when it takes requests.

        `on_progress` hears what it does meanwhile, also at later restarts. `restart`: after a death
        start a new one, with growing delays. `command` stands in for the engine program, for tests.
        Raises what the engine says (BadModel, BadConfig, ...), or EngineDied with its exit code and
        last line.
        """
        client = cls(spec, on_progress, restart, command)
        try:
            client._become_ready(await client._launch())
        except BaseException:
            client._move(EngineState.STOPPED)
            raise
        return client

    @property
    def ready(self) -> Ready:
        """The limits of the engine, of the last one while there is none."""
        assert self._ready is not None
        return self._ready

    @property
    def state(self) -> EngineState:
        """Where the engine process is in its life."""
        return self._state

    @property
    def heartbeat(self) -> Heartbeat | None:
        """Steps, time since the last one, and whether it is busy; None without a process."""
        return self._link.heartbeat if self._link is not None else None

    @property
    def healthy(self) -> bool:
        """Whether requests are taken and the engine still goes round its loop."""
        heartbeat = self.heartbeat
        return (
            self._state is EngineState.READY
            and heartbeat is not None
            and heartbeat.since_beat_s < STUCK_AFTER_S
            and self._link is not None
            and not self._link.suspended
        )

    @property
    def num_live(self) -> int:
        """Requests that the engine has not ended yet."""
        return len(self._requests)

    def open(self, submits: Sequence[Submit]) -> Stream:
        """Send requests, all or none, and return the stream of what comes of them.

        Raises EngineUnavailable, Overloaded, DuplicateRequest for an id that lives, PromptTooLong.
        """
        link = self._require_engine()
        if link.num_waiting_bytes > MAX_WAITING_BYTES:
            raise Overloaded("Too many requests wait for the engine; try again later.")
        for submit in submits:
            if len(submit.prompt) > MAX_PROMPT_BYTES:
                raise PromptTooLong(
                    f"A prompt may have at most {MAX_PROMPT_BYTES // 4} tokens: shorten it."
                )
        stream = self._requests.open(
            [submit.request_id for submit in submits], place=link.num_sent + len(submits)
        )
        link.send(submits)
        return stream

    def abort_now(self, request_id: str) -> None:
        """Abort a request, in any phase, without waiting. Its stream ends with reason ABORT.

        Idempotent, and nothing happens for an id that is not live.
        """
        self._requests.abort(request_id)

    async def stats(self) -> Stats:
        """The engine's counters and gauges. Raises EngineUnavailable."""
        return msgspec.json.decode(await self._query("stats"), type=Stats)

    async def trace(self) -> bytes:
        """Chrome trace events, as JSON. Raises EngineUnavailable."""
        return await self._query("trace")

    async def reset(self) -> None:
        """Abort all requests and drop all caches. Raises EngineUnavailable."""
        await self._query("reset")

    async def until_ready(self) -> None:
        """Wait until a restarting engine takes requests; EngineUnavailable if it never will."""
        while self._state is not EngineState.READY:
            if self._state is not EngineState.RESTARTING:
                raise EngineUnavailable(WHY_UNAVAILABLE[self._state])
            self._state_changed.clear()
            await self._state_changed.wait()

    async def until_given_up(self) -> NoReturn:
        """Never return; raise `EngineDied` when the engine died and could not be restarted."""
        await self._given_up.wait()
        raise EngineDied(
            f"The engine died and could not be restarted {MAX_FAILED_STARTS} times in a row."
        )

    async def close(self, drain: bool = False, timeout: float = 10) -> None:  # noqa: ASYNC109
        """End the engine process and give back everything; idempotent.

        Streams that run end with EngineUnavailable, or with `drain` are finished first, within
        `timeout` seconds. An engine that does not listen is terminated, then killed.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(drain, timeout))
        await asyncio.shield(self._closing)

    async def _close(self, drain: bool, timeout_s: float) -> None:
        self._move(EngineState.STOPPING)
        if self._restarting is not None:
            self._restarting.cancel()
            await asyncio.wait([self._restarting])
        closed = EngineUnavailable("The engine was closed.")
        if not drain:
            self._requests.fail_all(closed)
        if self._link is not None:
            await self._link.stop(drain, timeout_s)
        self._fail_everything(closed)
        self._move(EngineState.STOPPED)

    async def _launch(self) -> Ready:
        """Start one engine process; when that fails, nothing of it is left."""
        self._starting = starting = asyncio.get_running_loop().create_future()
        try:
            link = self._link = EngineLink(self._spec, self._command, self._receive, self._lost)
            try:
                return _checked(await starting, link)
            except BaseException as error:
                link.kill()
                await link.reaped()
                if isinstance(error, _DiedAtStart):
                    raise EngineDied(f"The engine died while starting: {link.epitaph}.") from None
                raise
        finally:
            self._starting = None

    def _become_ready(self, ready: Ready) -> None:
        self._ready = ready
        self._move(EngineState.READY)

    def _receive(self, message: FromEngine) -> None:
        match message:
            case StepOutput():
                self._requests.dispatch(message)
            case Reply(query_id=query_id, body=body):
                query = self._queries.get(query_id)
                if query is not None and not query.done():
                    query.set_result(body)
            case Progress():
                self._report(message)
            case Ready():
                if self._starting is not None and not self._starting.done():
                    self._starting.set_result(message)
            case StartFailed(kind=kind, message=text):
                if self._starting is not None and not self._starting.done():
                    self._starting.set_exception(error_of(kind, text))
            case _:
                assert_never(message)

    def _report(self, progress: Progress) -> None:
        """A listener that fails must not cost the messages that come after."""
        if self._on_progress is not None:
            try:
                self._on_progress(progress)
            except Exception as error:
                _log.warning("Progress could not be reported: %s", error)

    def _lost(self) -> None:
        """The engine has gone: fail what was in flight at once, then see about a new one."""
        if self._starting is not None:
            if not self._starting.done():
                self._starting.set_exception(_DiedAtStart())
            return
        if self._state is EngineState.STOPPING:
            return
        self._fail_everything(
            EngineDied("The engine process died while this request was in flight: send it again.")
        )
        self._move(EngineState.RESTARTING if self._restart else EngineState.STOPPED)
        self._restarting = asyncio.create_task(self._after_death())

    async def _after_death(self) -> None:
        assert self._link is not None
        await self._link.reaped()
        _log.error("The engine process died: %s.", self._link.epitaph)
        if self._state is not EngineState.RESTARTING:
            return
        for attempt in range(MAX_FAILED_STARTS):
            await asyncio.sleep(_FIRST_DELAY_S * 2**attempt)
            try:
                self._become_ready(await self._launch())
            except (MLCError, OSError) as error:
                _log.error("The engine could not be restarted: %s", error)
            else:
                _log.warning("The engine was restarted and serves again.")
                return
        self._move(EngineState.STOPPED)
        self._given_up.set()

    def _fail_everything(self, error: MLCError) -> None:
        self._requests.fail_all(error)
        for query in self._queries.values():
            if not query.done():
                query.set_exception(error)

    def _send_abort(self, request_id: str, place: int) -> None:
        if self._link is not None:
            self._link.abort(request_id, after=place)

    def _require_engine(self) -> EngineLink:
        if self._state is not EngineState.READY or self._link is None:
            raise EngineUnavailable(WHY_UNAVAILABLE[self._state])
        return self._link

    async def _query(self, what: str) -> bytes:
        link = self._require_engine()
        query_id = next(self._query_ids)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._queries[query_id] = answer
        try:
            link.send([Query(query_id, what)])
            return await answer
        finally:
            del self._queries[query_id]

    def _move(self, state: EngineState) -> None:
        assert state in NEXT[self._state], f"{self._state} -> {state}"
        self._state = state
        self._state_changed.set()


class _DiedAtStart(Exception):
    """The process has gone before it said Ready or StartFailed."""


def _checked(ready: Ready, link: EngineLink) -> Ready:
    if ready.protocol_version != PROTOCOL_VERSION:
        raise BadConfig("The engine program is of another version: install both from one place.")
    if link.heartbeat is None:  # it died between saying Ready and now
        raise _DiedAtStart
    return ready
