"""Arrays whose memory kernels like: aligned for vector loads, on huge pages where there are any."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

ALIGNMENT = 64
"""What every array starts at: a cache line, and the widest vector."""

HUGE_PAGE = 2 << 20

PAGE = 4096
"""What arrays that share a mapping start at."""

_LARGEST_HEAP_BLOCK = (32 << 20) - (1 << 16)
"""Just below the size from which glibc always maps and unmaps a block."""

Buffer = bytearray | mmap.mmap


def huge_empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An uninitialised C-ordered array, freed with its last view.

    From 2 MiB on it starts at a 2 MiB border of its own mapping and asks for huge pages (one entry
    of the address cache per 2 MiB, not per 4 KiB); a smaller one starts at a multiple of 64 bytes.
    """
    kind = np.dtype(dtype)
    count = math.prod(shape)
    size = count * kind.itemsize
    if size < HUGE_PAGE:
        start, buffer = _aligned(bytearray(size + ALIGNMENT), ALIGNMENT)
    else:
        start, buffer = _aligned(_anonymous(size + HUGE_PAGE), HUGE_PAGE)
    return np.frombuffer(buffer, dtype=kind, count=count, offset=start).reshape(shape)


def side_by_side(wanted: Iterable[tuple[tuple[int, ...], DTypeLike]]) -> list[NDArray[Any]]:
    """Uninitialised C-ordered arrays of these shapes and dtypes in one mapping, freed together.

    Together they start as `huge_empty` has it, and each a multiple of `PAGE` further. So all lie on
    huge pages, small ones too; in mappings of their own the last huge page of each has unused rest.
    """
    kinds = [(shape, np.dtype(dtype)) for shape, dtype in wanted]
    sizes = [math.prod(shape) * kind.itemsize for shape, kind in kinds]
    starts = [0, *accumulate(-(-size // PAGE) * PAGE for size in sizes)]
    room = huge_empty((starts[-1],), np.uint8)
    return [
        room[start : start + size].view(kind).reshape(shape)
        for (shape, kind), start, size in zip(kinds, starts, sizes, strict=False)
    ]


def keep_freed_memory() -> None:
    """Let temporary arrays reuse memory instead of asking the system for it each time.

    glibc gives freed memory back at once until it has seen a large block freed; from then on it
    keeps up to twice that size, at most 64 MiB a thread. Without the page faults loading takes half
    the time.
    """
    np.empty(_LARGEST_HEAP_BLOCK, np.uint8)


def _anonymous(size: int) -> mmap.mmap:
    """Memory of our own; private, because shared mappings take other paths to huge pages."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size)
    mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel built without huge pages
            mapping.madvise(mmap.MADV_HUGEPAGE)
    return mapping


def _aligned(buffer: Buffer, alignment: int) -> tuple[int, Buffer]:
    """The first offset of the buffer whose address is a multiple of `alignment`."""
    address = np.frombuffer(buffer, dtype=np.uint8).ctypes.data
    return -address % alignment, buffer
