"""Whole frames through a ring of bytes in shared memory: one writer, one reader, in order.

    byte 0      head    u64   bytes ever written; only the writer stores it
    byte 64     tail    u64   bytes ever read; only the reader stores it
    byte 128    wanted  u64   1: the writer waits for space; it sets this, the reader clears it
    byte 192    data    capacity bytes, used as a circle

           tail % capacity             head % capacity
                 v                           v
    | free ..... | bytes not read yet ...... | free ..... |

In the data, every frame is its length (u32, little-endian) followed by its bytes. A frame enters
and leaves in as many parts as there is room for, so a frame may be larger than the ring, and a
length may be split. head - tail is what can be read; both only grow, so they cannot be confused.

Why the order of stores is safe. The bytes are stored before `head`, so bytes below `head` are
complete; they are copied out before `tail` is stored, so space below `tail` is free. The three
words are aligned and stored through `memoryview.cast("Q")`, which is one 8-byte store, never torn.
x86 keeps stores in program order and loads before later stores (total store order), so nothing else
is needed there. Other machines (AArch64) may reorder both; there a `Fence` stands between bytes and
word. One order no machine keeps for free is "store mine, then load the other's": the writer stores
`wanted` then loads `tail`, the reader stores `tail` then loads `wanted`. Without a full fence each
could miss the other's store and the writer would sleep for ever, so a fence stands there on every
machine.

A ring never blocks and never waits; `mlc_llm.ipc.wakeup` is for that. The words are read back with
suspicion: a peer that went mad raises `CorruptRing`, it does not make this side read out of bounds.
"""

from __future__ import annotations

import platform
import threading

from mlc_llm.errors import MLCError

HEADER_BYTES = 192
MAX_FRAME_BYTES = 64 << 20
_HEAD, _TAIL, _WANTED = 0, 8, 16  # as indices of 8-byte words
_LENGTH_BYTES = 4
_STORES_KEEP_ORDER = platform.machine() in ("x86_64", "AMD64", "i686")


class CorruptRing(MLCError):
    """The peer stored something impossible; the ring cannot be used any more."""

    code = "corrupt_channel"


class Fence:
    """A full memory fence: no load or store crosses a call of it.

    Releasing and then taking a free lock is a release and an acquire on one word, which may not be
    reordered with each other; on x86 either is a locked instruction.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def __call__(self) -> None:
        self._lock.release()
        self._lock.acquire()


class RingWriter:
    """The only writer of a ring. It holds at most one frame that is not wholly in the ring yet."""

    def __init__(self, memory: memoryview) -> None:
        """`memory`: HEADER_BYTES and at least one byte, zeroed at first, shared with the reader."""
        self._words = memory[:HEADER_BYTES].cast("Q")
        self._data = memory[HEADER_BYTES:]
        self._head = self._words[_HEAD]
        self._rest = memoryview(b"")
        self._fence = Fence()

    @property
    def pending(self) -> bool:
        """Whether part of an accepted frame still waits for room; `flush` when there is some."""
        return len(self._rest) > 0

    def try_write(self, frame: bytes) -> bool:
        """Take `frame` (1 to MAX_FRAME_BYTES bytes), or return False while an earlier one is
        pending.

        Raises ValueError for a frame of another size and CorruptRing if the reader stored nonsense.
        """
        if not 1 <= len(frame) <= MAX_FRAME_BYTES:
            raise ValueError(f"A frame has 1 to {MAX_FRAME_BYTES} bytes, not {len(frame)}.")
        if not self.flush():
            return False
        self._rest = memoryview(len(frame).to_bytes(_LENGTH_BYTES, "little") + frame)
        self.flush()
        return True

    def flush(self) -> bool:
        """Move what fits; True when nothing is pending. If False, the reader will see
        `space_wanted`.
        """
        self._put()
        if self._rest:
            self._words[_WANTED] = 1
            self._fence()
            self._put()  # the reader may have freed space before it could see the wish
        return not self._rest

    def _put(self) -> None:
        if not self._rest:
            return
        capacity = len(self._data)
        used = self._head - self._words[_TAIL]
        if not 0 <= used <= capacity:
            raise CorruptRing(f"The reader of a ring of {capacity} bytes left {used} unread.")
        count = min(len(self._rest), capacity - used)
        start = self._head % capacity
        first = min(count, capacity - start)
        self._data[start : start + first] = self._rest[:first]
        self._data[: count - first] = self._rest[first:count]
        if not _STORES_KEEP_ORDER:
            self._fence()
        self._head += count
        self._words[_HEAD] = self._head
        self._rest = self._rest[count:]

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._data.release()


class RingReader:
    """The only reader of a ring."""

    def __init__(self, memory: memoryview) -> None:
        """`memory`: the same bytes that the `RingWriter` has."""
        self._words = memory[:HEADER_BYTES].cast("Q")
        self._data = memory[HEADER_BYTES:]
        self._tail = self._words[_TAIL]
        self._splitter = FrameSplitter()
        self._fence = Fence()

    def read(self, most: int | None = None) -> list[bytes]:
        """Frames that are complete by now, oldest first; raises CorruptRing.

        All of them, or those that end within the next `most` bytes.
        """
        chunk = self._take(most)
        return self._splitter.feed(chunk) if chunk else []

    @property
    def has_more(self) -> bool:
        """Whether bytes lie in the ring that were not read yet."""
        return self._words[_HEAD] != self._tail

    def space_wanted(self) -> bool:
        """Whether the writer asked to be told of free space; ask after each `read`."""
        self._fence()
        if not self._words[_WANTED]:
            return False
        self._words[_WANTED] = 0
        return True

    def _take(self, most: int | None) -> bytes:
        capacity = len(self._data)
        count = self._words[_HEAD] - self._tail
        if not 0 <= count <= capacity:
            raise CorruptRing(f"A ring of {capacity} bytes claims to hold {count}.")
        if most is not None:
            count = min(count, most)
        if count == 0:
            return b""
        if not _STORES_KEEP_ORDER:
            self._fence()
        start = self._tail % capacity
        chunk = bytes(self._data[start : start + count])
        if len(chunk) < count:
            chunk += self._data[: count - len(chunk)]
        if not _STORES_KEEP_ORDER:
            self._fence()
        self._tail += count
        self._words[_TAIL] = self._tail
        return chunk

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._data.release()


class FrameSplitter:
    """Bytes in, frames out: undoes the length prefixes, however the bytes were cut."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._missing = _LENGTH_BYTES
        """Bytes that `_held` must have before anything can be said."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The frames that `chunk` completes. Raises CorruptRing for a length no writer stores."""
        self._held += chunk
        frames: list[bytes] = []
        if len(self._held) < self._missing:
            return frames
        start, end = 0, len(self._held)
        while end - start >= _LENGTH_BYTES:
            length = int.from_bytes(self._held[start : start + _LENGTH_BYTES], "little")
            if not 1 <= length <= MAX_FRAME_BYTES:
                raise CorruptRing(f"A frame claims to have {length} bytes.")
            stop = start + _LENGTH_BYTES + length
            if stop > end:
                break
            frames.append(bytes(self._held[start + _LENGTH_BYTES : stop]))
            start = stop
        del self._held[:start]
        self._missing = _LENGTH_BYTES
        if len(self._held) >= _LENGTH_BYTES:
            self._missing += int.from_bytes(self._held[:_LENGTH_BYTES], "little")
        return frames
