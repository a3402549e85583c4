"""Both ends of a channel in one process: order, room and suspicion."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_llm.ipc import channel
from mlc_llm.ipc.channel import (
    READ_BYTES,
    Capacities,
    ChannelBroken,
    ClientEnd,
    EngineEnd,
    Handle,
    Sequencer,
)
from mlc_llm.ipc.heartbeat import Phase
from mlc_llm.ipc.wakeup import wait
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import Abort, Delta, Query, StepOutput, Submit, ToEngine

Join = Callable[[Capacities], tuple[ClientEnd, EngineEnd]]


@pytest.fixture
def join() -> Iterator[Join]:
    with ExitStack() as stack:

        def joined(capacities: Capacities) -> tuple[ClientEnd, EngineEnd]:
            client = ClientEnd(capacities)
            stack.callback(client.close)
            handle = client.handle
            copies = {fd: os.dup(fd) for fd in handle.fds()}
            engine = EngineEnd(
                Handle(
                    copies[handle.memory],
                    (copies[handle.to_engine[0]], copies[handle.to_engine[1]]),
                    (copies[handle.to_client[0]], copies[handle.to_client[1]]),
                )
            )
            stack.callback(engine.close)
            return client, engine

        yield joined


def submit(request_id: str, num_tokens: int = 1) -> Submit:
    return Submit(request_id, bytes(4 * num_tokens), GenerationConfig())


def names(messages: list[ToEngine]) -> list[str]:
    return [f"{type(m).__name__} {m.request_id}" for m in messages if isinstance(m, Submit | Abort)]


def woken(wakeup_of: ClientEnd | EngineEnd) -> bool:
    return bool(wait([wakeup_of.wakeup], 0))


def test_an_abort_does_not_overtake_the_submit_it_is_about(join: Join) -> None:
    client, engine = join(Capacities())
    client.send([submit("a"), submit("b")])
    client.abort("a", after=1)
    client.send([submit("c")])
    assert names(engine.recv()) == ["Submit a", "Abort a", "Submit b", "Submit c"]


def test_an_abort_never_hits_a_later_request_of_the_same_name(join: Join) -> None:
    client, engine = join(Capacities())
    client.send([submit("a")])
    assert names(engine.recv()) == ["Submit a"]
    client.abort("a", after=1)
    client.send([submit("a")])
    assert names(engine.recv()) == ["Abort a", "Submit a"]


def test_an_abort_waits_for_a_submit_that_is_still_on_its_way(join: Join) -> None:
    client, engine = join(Capacities(commands=64))
    client.send([submit("a", num_tokens=100)])
    client.abort("a", after=1)
    assert engine.recv() == []
    arrived: list[ToEngine] = []
    while len(arrived) < 2:
        assert woken(client), "the engine freed space and did not say so"
        client.recv()
        arrived += engine.recv()
    assert names(arrived) == ["Submit a", "Abort a"]


def test_a_submit_does_not_overtake_the_aborts_before_it_when_their_lane_is_full(
    join: Join,
) -> None:
    client, engine = join(Capacities(aborts=16))
    for number in range(3):
        client.abort(f"{number}", after=0)
    client.send([submit("2")])
    heard: list[str] = []
    while woken(client) | woken(engine):
        heard += names(engine.recv())
        client.recv()
    assert heard == ["Abort 0", "Abort 1", "Abort 2", "Submit 2"]


@given(
    script=st.lists(st.sampled_from(["submit a", "submit b", "abort a", "abort b", "recv"])),
    prompt_tokens=st.integers(1, 40),
    read_bytes=st.sampled_from([1, 16, READ_BYTES]),
)
def test_the_engine_hears_everything_and_each_abort_between_its_submit_and_the_next(
    script: list[str], prompt_tokens: int, read_bytes: int
) -> None:
    with mock.patch.object(channel, "READ_BYTES", read_bytes):
        said, heard = conversation(script, prompt_tokens)
    for name in "ab":
        of_name = [word for word in said if word.endswith(name)]
        assert [word for word in heard if word.endswith(name)] == of_name
    submits = [word for word in said if word.startswith("Submit")]
    assert [word for word in heard if word.startswith("Submit")] == submits


def conversation(script: list[str], prompt_tokens: int) -> tuple[list[str], list[str]]:
    """What was said and what was heard; an abort that has no `Submit` is not said."""
    client = ClientEnd(Capacities(commands=64, aborts=16))
    handle = client.handle
    copies = [os.dup(fd) for fd in (handle.memory, handle.to_engine[0], handle.to_client[0])]
    engine = EngineEnd(Handle(copies[0], (copies[1],) * 2, (copies[2],) * 2))
    said, heard = list[str](), list[str]()
    places: dict[str, int] = {}
    for act in script:
        verb, _, name = act.partition(" ")
        if verb == "submit":
            client.send([submit(name, prompt_tokens)])
            places[name] = client.num_sent
            said.append(f"Submit {name}")
        elif verb == "abort" and name in places:
            client.abort(name, places.pop(name))
            said.append(f"Abort {name}")
        elif verb == "recv":
            heard += names(engine.recv())
    while woken(client) | woken(engine):
        heard += names(engine.recv())
        client.recv()
    client.close()
    engine.close()
    return said, heard


def test_a_crowd_of_prompts_is_heard_in_pieces_and_an_abort_before_it(join: Join) -> None:
    client, engine = join(Capacities())
    client.send([submit("runs")])
    assert names(engine.recv()) == ["Submit runs"]
    client.send([submit(f"{number}", 1000) for number in range(100)])
    client.abort("99", after=client.num_sent)
    client.abort("runs", after=1)
    assert woken(engine)
    pieces = [names(engine.recv())]
    while woken(engine):
        pieces.append(names(engine.recv()))
    assert max(map(len, pieces)) <= READ_BYTES // 4000 + 1
    heard = [name for piece in pieces for name in piece]
    assert heard == ["Abort runs", *(f"Submit {number}" for number in range(100)), "Abort 99"]


def test_much_output_is_taken_in_pieces_each_of_which_wakes_for_the_next(join: Join) -> None:
    client, engine = join(Capacities())
    output = StepOutput([Delta("r", 0, "x" * 1000, 1)])
    for _ in range(100):
        assert engine.send(output)
    taken: list[int] = []
    while woken(client):
        taken.append(len(client.recv()))
    assert sum(taken) == 100
    assert max(taken) <= READ_BYTES // 1000 + 1
    assert not client.has_more


def test_output_that_finds_no_room_is_refused_and_room_is_signalled(join: Join) -> None:
    client, engine = join(Capacities(output=256))
    output = StepOutput([Delta("r", 0, "x" * 100, 1)])
    num_sent = 0
    while engine.send(output):
        num_sent += 1
    assert num_sent > 1
    assert not engine.flush()
    wait([engine.wakeup], 0)
    received = client.recv()
    assert woken(engine)
    assert engine.flush()
    assert engine.send(output)
    assert received + client.recv() == [output] * (num_sent + 1)


def test_output_larger_than_the_ring_travels_in_parts(join: Join) -> None:
    client, engine = join(Capacities(output=100))
    output = StepOutput([Delta("r", 0, "y" * 10_000, 1)])
    assert engine.send(output)
    received = client.recv()
    while not received:
        assert woken(engine)
        engine.recv()
        assert woken(client)
        received = client.recv()
    assert received == [output]


def test_a_garbage_frame_breaks_the_channel_with_a_clear_error(join: Join) -> None:
    client, engine = join(Capacities())
    engine._output.try_write(b"\xc1 nonsense")
    with pytest.raises(ChannelBroken, match="no message"):
        client.recv()


def test_only_aborts_may_come_down_their_lane() -> None:
    with pytest.raises(ChannelBroken, match="Query"):
        Sequencer().feed([Query(1, "stats")], [])


def test_memory_that_is_no_channel_is_refused() -> None:
    fd = os.memfd_create("other")
    os.ftruncate(fd, 4096)
    with pytest.raises(ChannelBroken, match="not a channel"):
        EngineEnd(Handle(fd, (fd, fd), (fd, fd)))
    os.close(fd)


def test_the_heartbeat_tells_steps_and_phase(join: Join) -> None:
    client, engine = join(Capacities())
    assert client.heartbeat.read().phase is Phase.STARTING
    assert client.heartbeat.read().since_step_s is None
    engine.heartbeat.beat(Phase.BUSY)
    engine.heartbeat.stepped()
    heartbeat = client.heartbeat.read()
    assert (heartbeat.steps, heartbeat.busy) == (1, True)
    assert heartbeat.since_step_s is not None


def test_both_ends_give_back_every_descriptor(join: Join) -> None:
    before = len(os.listdir("/proc/self/fd"))
    client, engine = join(Capacities())
    client.close()
    engine.close()
    assert len(os.listdir("/proc/self/fd")) == before
