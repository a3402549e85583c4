"""Shared memory without a name: it lives exactly as long as somebody holds it.

A file descriptor is all there is, handed to the other process when it is started. Nothing can be
left behind in `/dev/shm`, guessed by another user, or swept too early, whatever dies and however.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import tempfile


class SharedMemory:
    """A mapping of an anonymous file, readable and writable by every process that got `fd`."""

    def __init__(self, fd: int) -> None:
        """Map all of `fd` and take it over. Raises OSError or ValueError if it cannot be mapped."""
        self.fd = fd
        self._map = mmap.mmap(fd, os.fstat(fd).st_size)
        self.view = memoryview(self._map)

    @classmethod
    def create(cls, size: int) -> SharedMemory:
        """Zeroed memory of `size` bytes; pages are taken from the system when first touched."""
        return cls(_anonymous_file(size))

    def close(self) -> None:
        """Unmap. Views that were taken from `view` must have been released; idempotent."""
        self.view.release()
        self._map.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _anonymous_file(size: int) -> int:
    if not hasattr(os, "memfd_create"):
        return _unlinked_file(size)
    fd = os.memfd_create("mlc-llm-channel", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    # With the size sealed, neither side can make the other one's access to it fault.
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def _unlinked_file(size: int) -> int:
    fd, path = tempfile.mkstemp(prefix="mlc-llm-channel-")
    os.unlink(path)
    os.ftruncate(fd, size)
    return fd
