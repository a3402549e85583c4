"""One life of the engine process, seen from one event loop.

Owns the child, its pipes and the client's end of the channel, and gives all of it back when the
life is over. Knows nothing of requests: it hands messages up and says once that the engine has
gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence

from mlc_llm.ipc.channel import ChannelBroken, ClientEnd, Command
from mlc_llm.ipc.heartbeat import Heartbeat
from mlc_llm.ipc.launch import start_engine
from mlc_llm.protocol.messages import FromEngine, Shutdown
from mlc_llm.protocol.spec import EngineSpec

_STDERR = 2
_LAST_WORDS_BYTES = 4096
_PIPE_BYTES = 1 << 16
"""What a pipe holds, so that one reading finds all that a dead engine wrote."""
_REAP_EVERY_S = 0.02
_REAP_ATTEMPTS = 60
"""About a second for the kernel, or a driver in it, to finish what dies; then kill it again."""
_TERMINATE_WAIT_S = 2.0
_SUSPENDED = (b"T", b"t", b"Z", b"X")
"""States of proc(5) in which a process does nothing."""


class EngineLink:
    """A started engine. All methods belong to the thread of the loop it was made in."""

    def __init__(
        self,
        spec: EngineSpec,
        command: Sequence[str] | None,
        on_message: Callable[[FromEngine], None],
        on_gone: Callable[[], None],
    ) -> None:
        """Start the process; `on_gone` is called once, after the last message. Raises BadConfig."""
        self._on_message = on_message
        self._on_gone = on_gone
        self._end = ClientEnd()
        try:
            self._child = start_engine(spec, [self._end.handle], command)
        except BaseException:
            self._end.close()
            raise
        self._fault: str | None = None
        self._last_words = b""
        self._gone = False
        self._loop = asyncio.get_running_loop()
        self._reaping: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._end.wakeup.fileno(), self._wake)
        self._loop.add_reader(self._child.stderr, self._copy_stderr)
        self._loop.add_reader(self._child.lifeline.fileno(), self._lost)

    @property
    def pid(self) -> int:
        """Process id of the engine."""
        return self._child.process.pid

    @property
    def heartbeat(self) -> Heartbeat | None:
        """How it does; None when it has gone."""
        return None if self._gone else self._end.heartbeat.read()

    @property
    def suspended(self) -> bool:
        """Whether the kernel runs none of it now: stopped by a signal or a debugger, or dead."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                state = file.read().rpartition(b")")[2].split()[0]
        except (OSError, IndexError):  # no /proc here, or reaped meanwhile
            return self._gone
        return state in _SUSPENDED

    @property
    def epitaph(self) -> str:
        """How it ended, for people: exit code or signal, last line. Complete after `reaped`."""
        if self._fault is not None:
            return self._fault
        code = self._child.process.returncode
        if code is None:
            how = "it closed its lifeline"
        elif code < 0:
            how = f"killed by {_signal_name(-code)}"
        else:
            how = f"exit code {code}"
        lines = self._last_words.decode(errors="replace").strip().splitlines()
        return f"{how}; its last line was: {lines[-1].strip(' .')}" if lines else how

    @property
    def num_sent(self) -> int:
        """Commands that were sent so far."""
        return self._end.num_sent

    @property
    def num_waiting_bytes(self) -> int:
        """Bytes of commands that the engine has not made room for yet."""
        return self._end.num_waiting_bytes

    def send(self, commands: Iterable[Command]) -> None:
        """Send commands, or keep them until there is room; a gone engine gets none."""
        if not self._gone:
            with self._guarded():
                self._end.send(commands)

    def abort(self, request_id: str, after: int) -> None:
        """Send an abort (see `ClientEnd.abort`); a gone engine gets none."""
        if not self._gone:
            with self._guarded():
                self._end.abort(request_id, after)

    def kill(self) -> None:
        """End the process now; `on_gone` follows when it has died."""
        if self._child.process.returncode is None:
            self._child.process.kill()

    async def reaped(self) -> None:
        """Return when the process has ended and everything it held is given back."""
        await asyncio.shield(self._ended)

    async def stop(self, drain: bool, patience_s: float) -> None:
        """Ask for an orderly end; after `patience_s` seconds terminate, two seconds later kill.

        One that is suspended hears neither and is killed at once.
        """
        if self.suspended:
            self.kill()
        self.send([Shutdown(drain=drain)])
        if not await self._reaped_within(patience_s):
            self._terminate()
            if not await self._reaped_within(_TERMINATE_WAIT_S):
                self.kill()
        await self.reaped()

    async def _reaped_within(self, seconds: float) -> bool:
        done, _ = await asyncio.wait([self._ended], timeout=seconds)
        return bool(done)

    def _terminate(self) -> None:
        if self._child.process.returncode is None:
            self._child.process.terminate()

    def _wake(self) -> None:
        self._end.wakeup.clear()  # before looking, or news could be lost
        with self._guarded():
            for message in self._end.recv():
                self._on_message(message)

    def _copy_stderr(self) -> None:
        """Pass on what the engine wrote and keep the end of it. What is left wakes us again."""
        with contextlib.suppress(BlockingIOError):
            text = os.read(self._child.stderr, _PIPE_BYTES)
            if not text:
                self._loop.remove_reader(self._child.stderr)
            self._last_words = (self._last_words + text)[-_LAST_WORDS_BYTES:]
            with contextlib.suppress(OSError):
                os.write(_STDERR, text)

    def _lost(self) -> None:
        """The lifeline has ended: read the last messages, then say so."""
        self._wake()
        if self._fault is None and self._end.has_more:
            return  # a lifeline that has ended wakes us again
        self._copy_stderr()
        self._gone = True
        for fd in (self._end.wakeup.fileno(), self._child.stderr, self._child.lifeline.fileno()):
            self._loop.remove_reader(fd)
        self._reaping = self._loop.create_task(self._reap())
        self._on_gone()

    async def _reap(self) -> None:
        """The kernel tells of the death before the exit code is there; never block for it."""
        for attempt in itertools.count():
            if self._child.process.poll() is not None:
                break
            if attempt == _REAP_ATTEMPTS:
                self.kill()
            await asyncio.sleep(min(0.001 * 2**attempt, _REAP_EVERY_S))
        self._end.close()
        self._child.lifeline.close()
        os.close(self._child.stderr)
        self._ended.set_result(None)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """An engine that talks nonsense is ended; `on_gone` follows as for any other death."""
        try:
            yield
        except ChannelBroken as error:
            self._fault = error.message
            self.kill()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
