"""Waking the other process, and parking until it wakes us, without spinning.

Why no wake-up is lost. Whoever changes shared memory changes it first and notifies after; the
notification stays in the descriptor until it is cleared. Whoever parks clears first and looks at
the memory after. So a change is either seen by that look, or its notification comes after the
clearing and ends the next wait at once. The kernel's lock around the descriptor orders both sides
on every kind of machine. A stale notification costs one needless look, nothing else: a busy reader
looks without clearing at all.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterable, Sequence

_ONE = (1).to_bytes(8, "little")


class Wakeup:
    """A flag in the kernel that is set from one process and waited for in another.

    An eventfd where there is one (both descriptors are then the same number), otherwise a pipe.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        """Take over two non-blocking descriptors."""
        self.read_fd = read_fd
        self.write_fd = write_fd

    @classmethod
    def create(cls) -> Wakeup:
        """A new one, not set; not inherited unless handed on explicitly."""
        if hasattr(os, "eventfd"):
            fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            return cls(fd, fd)
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        return cls(read_fd, write_fd)

    def fileno(self) -> int:
        """What to poll for reading."""
        return self.read_fd

    def notify(self) -> None:
        """Set it. Never blocks: a full pipe is set already, and a dead peer shows elsewhere."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self.write_fd, _ONE)

    def clear(self) -> None:
        """Unset it; look at the shared memory after this, not before."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.read_fd, 4096)

    def close(self) -> None:
        """Close the descriptors; idempotent."""
        for fd in {self.read_fd, self.write_fd} - {-1}:
            os.close(fd)
        self.read_fd = self.write_fd = -1


def wait(wakeups: Iterable[Wakeup], timeout: float | None, others: Sequence[int] = ()) -> set[int]:
    """Park until a wake-up is set, one of `others` is readable or hung up, or `timeout` seconds
    passed.

    Clears the wake-ups that were set; look at all that they stand for afterwards. Returns the
    descriptors that were ready, empty at the timeout.
    """
    poll = select.poll()
    by_fd = {wakeup.fileno(): wakeup for wakeup in wakeups}
    for fd in (*by_fd, *others):
        poll.register(fd, select.POLLIN)
    ready = {fd for fd, _ in poll.poll(None if timeout is None else timeout * 1000)}
    for fd in ready & by_fd.keys():
        by_fd[fd].clear()
    return ready
