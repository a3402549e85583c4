"""The engine: obey the clients, plan a step, run it, tell the clients; park when there is no work.

One thread. `runner.run` is the only line that touches the device. What goes wrong with one request
ends that request; what goes wrong with a run ends the requests in it; only a device that fails
again and again, or a bug in the engine itself, ends the loop.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import assert_never

import msgspec

from mlc_llm.errors import EngineFault, EngineUnavailable
from mlc_llm.ipc.channel import ChannelBroken
from mlc_llm.ipc.heartbeat import Phase as Beat
from mlc_llm.ipc.wakeup import wait
from mlc_llm.protocol.messages import Abort, Query, Shutdown, Submit, ToEngine
from mlc_llm.tracing.chrome import chrome_json
from mlc_llm.tracing.recorder import Recorder
from mlc_workers.engine.desk import Desk, Texts
from mlc_workers.engine.inbox import Checks, Client, End
from mlc_workers.engine.sampler import Sampler
from mlc_workers.engine.stats import Counters
from mlc_workers.engine.stepper import Runner, Stepper
from mlc_workers.guided.held import Grammars
from mlc_workers.scheduler.scheduler import Scheduler

IDLE_BEAT_S = 1.0
"""An idle engine goes round its loop this often, so that its client can tell it is alive."""

MAX_FAULTS = 3
"""Runs that may fail one after the other before the device is given up."""

STOPPED = "the engine was stopped before the answer was complete; send the request again"
"""What a request hears that an orderly end of the process cuts short."""

STOP_PATIENCE_S = 2.0
"""How long a client that does not read may hold up the end."""


class Engine:
    """Everything of one engine process, put together."""

    def __init__(
        self,
        ends: Sequence[End],
        scheduler: Scheduler,
        runner: Runner,
        sampler: Sampler,
        texts: Texts,
        checks: Checks,
        recorder: Recorder | None = None,
        clock: Callable[[], float] = time.monotonic,
        grammars: Grammars | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._recorder = recorder
        self._clock = clock
        self._stop_requested = False
        self._deadline = math.inf
        self.counters = Counters()
        self.desk = Desk(
            scheduler, sampler, texts, checks, self.counters, recorder, clock, grammars
        )
        self._grammars = grammars
        self._stepper = Stepper(
            scheduler,
            runner,
            sampler,
            self.desk,
            checks.vocab_size,
            self.counters,
            recorder,
            clock,
        )
        self.clients = [Client(number, end) for number, end in enumerate(ends)]
        for client in self.clients:
            self.desk.add_client(client)

    def run(self) -> None:
        """Serve until every client has left. Raises `EngineFault` when the device is given up."""
        while self.clients and self._clock() < self._deadline:
            if not self.turn():
                self._park()

    def turn(self) -> bool:
        """Once round: everything the clients want, then one step. False: there was no work."""
        for client in list(self.clients):
            self._obey(client)
        if self._stop_requested:
            self._stop()
        self.desk.queue_held()
        for client in self.clients:
            client.end.heartbeat.beat(self._beat_of(client))
        worked = self._stepper.step()
        for client in list(self.clients):
            self._publish(client, worked)
        if worked:
            os.sched_yield()  # whoever was woken on this core runs now, not after the next step
        if self._stepper.num_faults >= MAX_FAULTS:
            raise EngineFault(f"the device failed {MAX_FAULTS} times in a row")
        return worked

    def request_stop(self) -> None:
        """Fail everything, let no more in, and end once the clients have been told.

        May be called from a signal handler: it only leaves a note and wakes the loop.
        """
        self._stop_requested = True
        for client in self.clients:
            client.end.wakeup.notify()

    def _stop(self) -> None:
        self._stop_requested = False
        self._deadline = self._clock() + STOP_PATIENCE_S
        for client in self.clients:
            client.is_leaving = True
            self.desk.fail_all(client, EngineUnavailable(STOPPED))

    def _obey(self, client: Client) -> None:
        try:
            messages = client.recv()
        except ChannelBroken:
            self._lose(client)
            return
        for message in messages:
            self._handle(client, message)

    def _handle(self, client: Client, message: ToEngine) -> None:
        match message:
            case Submit():
                self.desk.submit(client, message)
            case Abort(request_id=request_id):
                self.desk.abort(client, request_id)
            case Query(query_id=query_id, what=what):
                client.outbox.reply(query_id, self._reply(what))
            case Shutdown(drain=drain):
                client.is_leaving = True
                if not drain:
                    self.desk.fail_all(client, EngineUnavailable(STOPPED))
            case _:
                assert_never(message)

    def _reply(self, what: str) -> bytes:
        """The JSON answer to a query; one we do not know gets `null`."""
        match what:
            case "stats":
                return msgspec.json.encode(
                    self.counters.stats(self._scheduler.state, self.desk.num_held)
                )
            case "trace":
                return chrome_json(self._recorder.records() if self._recorder is not None else ())
            case "reset":
                for client in self.clients:
                    self.desk.abort_all(client)
                self._scheduler.state.kv.clear()
                return b"{}"
            case _:
                return b"null"

    def _beat_of(self, client: Client) -> Beat:
        if client.is_leaving:
            return Beat.STOPPING
        return Beat.BUSY if self._scheduler.has_work else Beat.IDLE

    def _publish(self, client: Client, stepped: bool) -> None:
        try:
            client.outbox.publish()
            if stepped:
                client.end.heartbeat.stepped()
            if client.is_gone:
                self._lose(client)
        except ChannelBroken:
            self._lose(client)

    def _lose(self, client: Client) -> None:
        self.desk.remove_client(client)
        self.clients.remove(client)
        client.end.close()

    def _park(self) -> None:
        """Sleep until a client wants something, or has room, or a grammar is ready."""
        if self.clients:
            others = [] if self._grammars is None else [self._grammars.wakeup]
            wait([*(client.end.wakeup for client in self.clients), *others], IDLE_BEAT_S)
