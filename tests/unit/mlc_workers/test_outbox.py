"""What waits for a client that does not read, and in what pieces it goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlc_llm.protocol.messages import Delta, Finished, FromEngine, StepOutput, TokenLogprob
from mlc_workers.engine.outbox import MOST_TOLD, Outbox


class Channel:
    """Takes so many frames, then none until there is room again."""

    def __init__(self) -> None:
        self.room = 0
        self.frames: list[StepOutput] = []

    def send(self, message: FromEngine) -> bool:
        if not self.room:
            return False
        self.room -= 1
        assert isinstance(message, StepOutput)
        self.frames.append(message)
        return True


def told(delta: Delta) -> int:
    return len(delta.logprobs)


@given(
    steps=st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 2), st.integers(0, MOST_TOLD)), max_size=4),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_what_has_waited_goes_in_frames_of_bounded_size_and_loses_nothing(
    steps: list[tuple[list[tuple[int, int]], int]],
) -> None:
    channel = Channel()
    outbox = Outbox(channel.send)
    said: dict[int, str] = {0: "", 1: "", 2: ""}
    for number, (news, room) in enumerate(steps):
        waited = not outbox.is_empty
        for index, num_told in news:
            text = f"<{number}>"
            entries = (TokenLogprob(b"x", -1.0, ()),) * num_told
            outbox.deltas.append(Delta("r", index, text, 1, None, entries))
            said[index] += text
        channel.room = room
        before = len(channel.frames)
        outbox.publish()
        if waited:
            for frame in channel.frames[before:]:
                assert sum(map(told, frame.deltas)) <= MOST_TOLD
    outbox.finished.append(Finished("r", 1, 1))
    channel.room = 1000
    assert outbox.publish()
    assert outbox.is_empty
    heard = dict.fromkeys(said, "")
    for frame in channel.frames:
        for delta in frame.deltas:
            heard[delta.index] += delta.text
    assert heard == said
    assert [len(frame.finished) for frame in channel.frames].index(1) == len(channel.frames) - 1


def test_a_client_that_never_reads_costs_no_more_than_the_answers() -> None:
    channel = Channel()
    outbox = Outbox(channel.send)
    for _ in range(3 * MOST_TOLD):
        outbox.deltas.append(Delta("r", 0, "x", 1, None, (TokenLogprob(b"x", -1.0, ()),)))
        if len(outbox.deltas) > 500:
            outbox.publish()
    outbox.publish()
    assert len(outbox.deltas) <= 4 + 500
    channel.room = 100
    outbox.publish()
    assert max(told(delta) for frame in channel.frames for delta in frame.deltas) <= MOST_TOLD
    assert sum(delta.num_tokens for frame in channel.frames for delta in frame.deltas) == (
        3 * MOST_TOLD
    )
