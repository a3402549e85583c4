"""One client process and the engine, joined: three rings, two wake-ups, one heartbeat.

    client                                             engine
      | -- commands: Submit, Query, Shutdown --------->  |   waits for room in a queue of the client
      | -- aborts: a small lane of its own ----------->  |   never behind a crowd of prompts
      | <---------- output: one frame per step --------  |   no room: the engine keeps and merges
      | <-- wake-up: output, or room in a lane --------  |
      | -- wake-up: commands, aborts, or room -------->  |
      | <---------- heartbeat -------------------------  |

The shared memory, every part aligned to 64 bytes:

    | magic u64, three capacities u64 | heartbeat | commands ring | aborts ring | output ring |

The client makes all of it before the engine starts and hands the descriptors on (`Handle`). An
engine serves any number of channels. Neither end ever blocks; both are used from one thread each.

An abort never waits behind a crowd of prompts, yet it must not overtake the `Submit` that it is
about, nor hit a later one of the same name. So `Abort.after` says how many commands had been sent
when that `Submit` was, itself included, and the engine's end hands it out right after that many
(`Sequencer`). The client lets a command become visible only when the aborts sent before it are; the
engine's end reads the lane of aborts after the commands; so no abort can come to light too late.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from mlc_llm.errors import MLCError
from mlc_llm.ipc.heartbeat import HEARTBEAT_BYTES, HeartbeatReader, HeartbeatWriter
from mlc_llm.ipc.memory import SharedMemory
from mlc_llm.ipc.ring import HEADER_BYTES, CorruptRing, RingReader, RingWriter
from mlc_llm.ipc.wakeup import Wakeup
from mlc_llm.protocol.codec import decode_from_engine, decode_to_engine, encode
from mlc_llm.protocol.messages import Abort, FromEngine, Query, Shutdown, Submit, ToEngine

_MAGIC = 0x31_4C_4E_48_43_43_4C_4D  # "MLCCHNL1"
_PREAMBLE_BYTES = 64
_ALIGNMENT = 64
READ_BYTES = 1 << 15
"""Of commands, or of output, that one `recv` takes, so that whoever receives gets round to its
other work. As tokens of prompts it is more than a step computes."""

Command = Submit | Query | Shutdown
_M = TypeVar("_M")


class ChannelBroken(MLCError):
    """The other end sent what is no message; this channel is of no use any more."""

    code = "corrupt_channel"


class Capacities(NamedTuple):
    """Bytes of data in each ring."""

    commands: int = 1 << 20
    aborts: int = 1 << 14
    output: int = 1 << 22


class Handle(Struct, frozen=True, forbid_unknown_fields=True):
    """The descriptors of a channel, by the numbers they keep in the process they are handed to."""

    memory: int
    to_engine: tuple[int, int]
    to_client: tuple[int, int]

    def fds(self) -> set[int]:
        """All of them, for `pass_fds`."""
        return {self.memory, *self.to_engine, *self.to_client}


class ClientEnd:
    """The client's end. What does not fit a lane waits here, in order, until there is room."""

    def __init__(self, capacities: Capacities = Capacities()) -> None:
        """Create a channel; raises OSError when the system has no memory or descriptors for it."""
        self._memory = SharedMemory.create(_Layout(capacities).end)
        _write_preamble(self._memory.view, capacities)
        parts = _Parts(self._memory.view, capacities)
        self.heartbeat = HeartbeatReader(parts.heartbeat)
        self.wakeup = Wakeup.create()
        """Set when there is something to `recv`, or room again."""
        self._engine = Wakeup.create()
        self._commands = _Lane(RingWriter(parts.commands))
        self._aborts = _Lane(RingWriter(parts.aborts))
        self._output = RingReader(parts.output)
        self.num_sent = 0
        """Commands that were sent so far."""

    @property
    def num_waiting_bytes(self) -> int:
        """Bytes of commands that wait here for room."""
        return self._commands.num_waiting_bytes

    @property
    def handle(self) -> Handle:
        """What the engine needs to attach."""
        return Handle(
            memory=self._memory.fd,
            to_engine=(self._engine.read_fd, self._engine.write_fd),
            to_client=(self.wakeup.read_fd, self.wakeup.write_fd),
        )

    def send(self, commands: Iterable[Command]) -> None:
        """Put commands, or queue them behind those that wait for room; wakes the engine once."""
        for command in commands:
            self.num_sent += 1
            self._commands.put(encode(command))
        self._move()
        self._engine.notify()

    def abort(self, request_id: str, after: int) -> None:
        """Put an abort into its lane. It takes effect after the first `after` commands, its
        request's among them, as soon as it can.
        """
        self._aborts.put(encode(Abort(request_id, after)))
        self._move()
        self._engine.notify()

    @property
    def has_more(self) -> bool:
        """Whether something has arrived that `recv` did not take."""
        return self._output.has_more

    def recv(self) -> list[FromEngine]:
        """Whole messages that have arrived, oldest first; also moves what waited for room.

        Where more have arrived than `READ_BYTES` hold, `wakeup` is set again for the others. Raises
        ChannelBroken. Clear `wakeup` before, look after (see `mlc_llm.ipc.wakeup`).
        """
        frames = _read(self._output, self._engine, READ_BYTES)
        if self._output.has_more:
            self.wakeup.notify()
        if self._commands.busy or self._aborts.busy:
            self._move()
            self._engine.notify()
        return [_decoded(decode_from_engine, frame) for frame in frames]

    def _move(self) -> None:
        """Move what fits. A command is not visible before the aborts that were sent before it."""
        self._aborts.flush()
        if not self._aborts.busy:
            self._commands.flush()

    def close(self) -> None:
        """Give everything back; idempotent. The engine's end stays valid memory for the engine."""
        self.heartbeat.close()
        self._commands.ring.close()
        self._aborts.ring.close()
        self._output.close()
        self._memory.close()
        self.wakeup.close()
        self._engine.close()


class EngineEnd:
    """The engine's end."""

    def __init__(self, handle: Handle) -> None:
        """Attach to a channel; takes the descriptors over. Raises ChannelBroken if it is none."""
        try:
            self._memory = SharedMemory(handle.memory)
        except (OSError, ValueError) as error:
            raise ChannelBroken(f"The engine was handed no channel: {error}.") from error
        parts = _Parts(self._memory.view, _read_preamble(self._memory.view))
        self.heartbeat = HeartbeatWriter(parts.heartbeat)
        self.wakeup = Wakeup(*handle.to_engine)
        """Set when there is something to `recv`, or room for output. Park with `wakeup.wait`."""
        self._client = Wakeup(*handle.to_client)
        self._commands = RingReader(parts.commands)
        self._aborts = RingReader(parts.aborts)
        self._output = RingWriter(parts.output)
        self._sequencer = Sequencer()

    def recv(self) -> list[ToEngine]:
        """What the client wants, in the order in which it must be obeyed. Never blocks.

        Each abort stands as early as its `Submit` allows. Where more has arrived than `READ_BYTES`
        hold, `wakeup` is set again for the rest. Also moves the rest of a large output frame.
        Raises ChannelBroken: then drop this client and its requests, and keep the others.
        """
        self.flush()
        commands = _read(self._commands, self._client, READ_BYTES)
        if self._commands.has_more:
            self.wakeup.notify()
        aborts = _read(self._aborts, self._client)  # after the commands: see the module's docstring
        return self._sequencer.feed(
            [_decoded(decode_to_engine, frame) for frame in aborts],
            [_decoded(decode_to_engine, frame) for frame in commands],
        )

    def send(self, message: FromEngine) -> bool:
        """Put one message; False: no room, keep it (merged with later news) and try when woken."""
        try:
            accepted = self._output.flush() and self._output.try_write(encode(message))
        except CorruptRing as error:
            raise ChannelBroken(error.message) from error
        self._client.notify()
        return accepted

    def flush(self) -> bool:
        """Move what waits for room; True: the next `send` is accepted. `recv` does this too."""
        if not self._output.pending:
            return True
        try:
            done = self._output.flush()
        except CorruptRing as error:
            raise ChannelBroken(error.message) from error
        self._client.notify()
        return done

    def close(self) -> None:
        """Give everything back; idempotent."""
        self.heartbeat.close()
        self._commands.close()
        self._aborts.close()
        self._output.close()
        self._memory.close()
        self.wakeup.close()
        self._client.close()


class Sequencer:
    """Puts aborts among commands: each right after as many commands as it says, or at once."""

    def __init__(self) -> None:
        self._num_commands = 0
        self._num_aborts = 0
        self._held: list[tuple[int, int, Abort]] = []
        """A heap: those that wait for the fewest commands first, then those that came first."""

    def feed(self, aborts: list[ToEngine], commands: list[ToEngine]) -> list[ToEngine]:
        """The messages to obey now. An abort whose command is still on its way is held."""
        for abort in aborts:
            if not isinstance(abort, Abort):
                raise ChannelBroken(f"A {type(abort).__name__} came down the lane of aborts.")
            self._num_aborts += 1
            heapq.heappush(self._held, (abort.after, self._num_aborts, abort))
        due: list[ToEngine] = []
        self._release(due)
        for command in commands:
            due.append(command)
            self._num_commands += 1
            self._release(due)
        return due

    def _release(self, due: list[ToEngine]) -> None:
        while self._held and self._held[0][0] <= self._num_commands:
            due.append(heapq.heappop(self._held)[2])


class _Lane:
    """A ring and the frames that wait for room in it."""

    def __init__(self, ring: RingWriter) -> None:
        self.ring = ring
        self._waiting: deque[bytes] = deque()
        self.num_waiting_bytes = 0

    @property
    def busy(self) -> bool:
        """Whether something waits for room."""
        return bool(self._waiting) or self.ring.pending

    def put(self, frame: bytes) -> None:
        self._waiting.append(frame)
        self.num_waiting_bytes += len(frame)

    def flush(self) -> None:
        try:
            while self.ring.flush() and self._waiting:
                frame = self._waiting.popleft()
                self.num_waiting_bytes -= len(frame)
                self.ring.try_write(frame)
        except CorruptRing as error:
            raise ChannelBroken(error.message) from error


class _Layout:
    """Where the parts begin."""

    def __init__(self, capacities: Capacities) -> None:
        self.heartbeat = _PREAMBLE_BYTES
        self.commands = _aligned(self.heartbeat + HEARTBEAT_BYTES)
        self.aborts = _aligned(self.commands + HEADER_BYTES + capacities.commands)
        self.output = _aligned(self.aborts + HEADER_BYTES + capacities.aborts)
        self.end = self.output + HEADER_BYTES + capacities.output


class _Parts:
    """The memory, cut up."""

    def __init__(self, view: memoryview, capacities: Capacities) -> None:
        at = _Layout(capacities)
        self.heartbeat = view[at.heartbeat : at.heartbeat + HEARTBEAT_BYTES]
        self.commands = view[at.commands : at.commands + HEADER_BYTES + capacities.commands]
        self.aborts = view[at.aborts : at.aborts + HEADER_BYTES + capacities.aborts]
        self.output = view[at.output : at.end]


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def _write_preamble(view: memoryview, capacities: Capacities) -> None:
    with view[:_PREAMBLE_BYTES].cast("Q") as words:
        for index, value in enumerate((_MAGIC, *capacities)):
            words[index] = value


def _read_preamble(view: memoryview) -> Capacities:
    if len(view) >= _PREAMBLE_BYTES:
        with view[:_PREAMBLE_BYTES].cast("Q") as words:
            magic, capacities = words[0], Capacities(words[1], words[2], words[3])
        if magic == _MAGIC and min(capacities) > 0 and len(view) == _Layout(capacities).end:
            return capacities
    raise ChannelBroken("The memory that the engine was handed is not a channel of this version.")


def _read(ring: RingReader, peer: Wakeup, most: int | None = None) -> list[bytes]:
    try:
        frames = ring.read(most)
    except CorruptRing as error:
        raise ChannelBroken(error.message) from error
    if ring.space_wanted():
        peer.notify()
    return frames


def _decoded(decode: Callable[[bytes], _M], frame: bytes) -> _M:
    try:
        return decode(frame)
    except msgspec.MsgspecError as error:
        raise ChannelBroken(f"A frame of {len(frame)} bytes is no message: {error}.") from error
