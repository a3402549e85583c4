"""A ring delivers every frame, whole and in order, and believes nothing impossible."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_llm.ipc.ring import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    CorruptRing,
    FrameSplitter,
    RingReader,
    RingWriter,
)


def ring(capacity: int) -> tuple[RingWriter, RingReader, memoryview]:
    memory = memoryview(bytearray(HEADER_BYTES + capacity))
    return RingWriter(memory), RingReader(memory), memory.cast("Q") if capacity % 8 == 0 else memory


@given(
    capacity=st.integers(1, 64),
    frames=st.lists(st.binary(min_size=1, max_size=200), max_size=30),
    moves=st.lists(st.sampled_from("wwwrf"), max_size=200),
    most=st.none() | st.integers(1, 64),
)
def test_any_frames_arrive_in_order_whatever_the_interleaving(
    capacity: int, frames: list[bytes], moves: list[str], most: int | None
) -> None:
    writer, reader, _ = ring(capacity)
    waiting, arrived = list(frames), list[bytes]()
    for move in moves:
        if move == "w" and waiting and writer.try_write(waiting[0]):
            waiting.pop(0)
        elif move == "f":
            writer.flush()
        elif move == "r":
            arrived += reader.read(most)
    while len(arrived) < len(frames):
        if waiting and writer.try_write(waiting[0]):
            waiting.pop(0)
        writer.flush()
        arrived += reader.read(most)
    assert arrived == frames
    assert not writer.pending
    assert not reader.has_more


def test_a_reader_takes_no_more_than_it_wants_and_knows_of_the_rest() -> None:
    writer, reader, _ = ring(64)
    for _ in range(6):
        assert writer.try_write(b"frame")
    assert reader.read(2 * 9) == [b"frame"] * 2
    assert reader.has_more
    assert reader.read() == [b"frame"] * 4
    assert not reader.has_more


@given(
    capacity=st.integers(1, 16),
    frames=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=10),
)
def test_a_writer_that_acts_only_when_woken_is_woken_often_enough(
    capacity: int, frames: list[bytes]
) -> None:
    writer, reader, _ = ring(capacity)
    waiting, arrived = list(frames), list[bytes]()

    def write_what_fits() -> None:
        while writer.flush() and waiting:
            writer.try_write(waiting.pop(0))

    write_what_fits()
    while len(arrived) < len(frames):
        arrived += reader.read()
        if reader.space_wanted():
            write_what_fits()
        else:
            assert not writer.pending
    assert arrived == frames


def test_a_frame_is_refused_while_an_earlier_one_waits_for_room() -> None:
    writer, reader, _ = ring(8)
    assert writer.try_write(b"123456")
    assert writer.pending
    assert not writer.try_write(b"x")
    assert reader.read() == []
    assert writer.flush()
    assert reader.read() == [b"123456"]


@pytest.mark.parametrize("size", [0, MAX_FRAME_BYTES + 1])
def test_frames_of_impossible_sizes_are_not_accepted(size: int) -> None:
    writer, _, _ = ring(8)
    with pytest.raises(ValueError, match="bytes"):
        writer.try_write(bytes(size))


@pytest.mark.parametrize("length", [0, MAX_FRAME_BYTES + 1, 0xFFFFFFFF])
def test_a_corrupted_length_is_an_error(length: int) -> None:
    with pytest.raises(CorruptRing, match="claims to have"):
        FrameSplitter().feed(b"\x01\0\0\0a" + length.to_bytes(4, "little"))


@pytest.mark.parametrize("head", [65, 2**64 - 1])
def test_a_reader_does_not_believe_more_bytes_than_the_ring_holds(head: int) -> None:
    _, reader, words = ring(64)
    words[0] = head
    with pytest.raises(CorruptRing, match="claims to hold"):
        reader.read()


@pytest.mark.parametrize("tail", [5, 2**64 - 1])
def test_a_writer_does_not_believe_that_more_was_read_than_was_written(tail: int) -> None:
    writer, _, words = ring(64)
    words[8] = tail
    with pytest.raises(CorruptRing, match="unread"):
        writer.try_write(b"x")


@given(frames=st.lists(st.binary(min_size=1, max_size=30), max_size=10), cuts=st.data())
def test_a_splitter_does_not_mind_how_bytes_are_cut(
    frames: list[bytes], cuts: st.DataObject
) -> None:
    text = b"".join(len(frame).to_bytes(4, "little") + frame for frame in frames)
    splitter, out = FrameSplitter(), list[bytes]()
    while text:
        count = cuts.draw(st.integers(1, len(text)))
        out += splitter.feed(text[:count])
        text = text[count:]
    assert out == frames
