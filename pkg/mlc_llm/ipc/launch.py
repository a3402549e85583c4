"""Starting the engine process, and what it finds when it wakes up.

The engine is another program, started with `exec`: nothing is forked (TVM hangs in a forked child)
and no `__main__` is imported again, so a user's script needs no guard. It is told:

    argv[1]          a `Handover` as JSON: the numbers of the descriptors it inherits
    stdin            an `EngineSpec` as JSON, then end of file
    stdout, stderr   one pipe, which the client copies to its own stderr

It stands in a session of its own, so that Ctrl-C in a terminal reaches the client alone, which then
ends the engine in order. The lifeline is a pair of connected sockets, one end on each side, never
written to: when either process is gone, `kill -9` included, the other one reads end of file at
once.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterable, Sequence
from typing import IO, NamedTuple

import msgspec
from msgspec import Struct

from mlc_llm.errors import BadConfig
from mlc_llm.ipc.channel import EngineEnd, Handle
from mlc_llm.protocol.spec import EngineSpec

ENGINE_MODULE = "mlc_workers.main"
EXIT_ORPHANED = 3
"""Exit code of an engine whose client is gone."""


class Handover(Struct, frozen=True, forbid_unknown_fields=True):
    """What the engine inherits."""

    channels: tuple[Handle, ...]
    lifeline: int


class Arrival(NamedTuple):
    """The same on the engine's side, opened."""

    spec: EngineSpec
    channels: list[EngineEnd]
    lifeline: int
    """Reads end of file when the client dies; see `exit_with_client`."""


class Child(NamedTuple):
    """A running engine and the client's ends of its pipes; whoever takes it closes and reaps."""

    process: subprocess.Popen[bytes]
    lifeline: socket.socket
    """Reads end of file when the engine dies; closing it makes the engine exit."""
    stderr: int
    """What the engine writes, to be read without blocking."""


def start_engine(
    spec: EngineSpec, handles: Iterable[Handle], command: Sequence[str] | None = None
) -> Child:
    """Start the engine on these channels; `command` stands in for interpreter and module, for
    tests.

    Raises BadConfig when the system cannot start it.
    """
    lifeline, inherited = socket.socketpair()
    stderr, written = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(stderr, False)
    handover = Handover(channels=tuple(handles), lifeline=inherited.fileno())
    fds = {handover.lifeline}.union(*(handle.fds() for handle in handover.channels))
    try:
        process = subprocess.Popen(
            [*(command or _engine_command()), msgspec.json.encode(handover).decode()],
            stdin=subprocess.PIPE,
            stdout=written,
            stderr=written,
            pass_fds=tuple(fds),
            env={**os.environ, "PYTHONPATH": python_path()},
            start_new_session=True,
        )
    except OSError as error:
        lifeline.close()
        os.close(stderr)
        raise BadConfig(f"The engine process cannot be started: {error}.") from error
    finally:
        inherited.close()
        os.close(written)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:  # it may be dead already
        stdin.write(msgspec.json.encode(spec))
    return Child(process, lifeline, stderr)


def receive(argv: Sequence[str], stdin: IO[bytes]) -> Arrival:
    """In the engine, first thing: open what was handed over and read what is to be served.

    Raises BadConfig when the process was started by anything but `start_engine`.
    """
    try:
        handover = msgspec.json.decode(argv[1], type=Handover)
    except (IndexError, msgspec.MsgspecError) as error:
        raise BadConfig(
            "The engine is not started by hand: run `mlc_llm serve` or create an MLCEngine."
        ) from error
    for fd in {handover.lifeline}.union(*(handle.fds() for handle in handover.channels)):
        os.set_inheritable(fd, False)  # a compiler that we start must not keep the client waiting
    channels = [EngineEnd(handle) for handle in handover.channels]
    spec = msgspec.json.decode(stdin.read(), type=EngineSpec)
    return Arrival(spec, channels, handover.lifeline)


def exit_with_client(lifeline: int) -> None:
    """End this process at once when the client is gone, whatever it is doing at that moment.

    There is nothing to tidy up: no file, no named memory, no port belongs to the engine.
    """

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(lifeline, 1):
                pass
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def python_path() -> str:
    """PYTHONPATH for the engine: what this process imports from, less the standard library.

    So an uninstalled checkout, a changed `sys.path` and a notebook start the engine they belong to.
    """
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    standard |= {os.path.join(path, "lib-dynload") for path in standard}
    bundled = "python{}{}.zip".format(*sys.version_info)
    paths = [os.path.abspath(path) for path in sys.path]
    return os.pathsep.join(
        path
        for path in dict.fromkeys(paths)
        if path not in standard and os.path.basename(path) != bundled and os.pathsep not in path
    )


def _engine_command() -> list[str]:
    if not sys.executable:
        raise BadConfig("The engine needs a Python interpreter, and sys.executable names none.")
    # -P: the current folder must not come before everything, as -m alone would have it.
    return [sys.executable, "-P", "-m", ENGINE_MODULE]
