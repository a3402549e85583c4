"""How long a message takes between client and engine; prints a table, asserts nothing.

PYTHONPATH=pkg:workers:api:tests python tests/bench/ring.py [rounds]
"""

from __future__ import annotations

import asyncio
import statistics
import struct
import sys
import time
from collections.abc import Callable

import uvloop

from mlc_llm.ipc.channel import ClientEnd
from mlc_llm.ipc.launch import start_engine
from mlc_llm.ipc.ring import HEADER_BYTES, RingReader, RingWriter
from mlc_llm.ipc.wakeup import wait
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import Query, Reply, Shutdown, Submit
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.serve.client.client import EngineClient
from support.fake_engine import fake_engine

SPEC = EngineSpec(model="none")


def ring_alone(rounds: int) -> list[float]:
    """Write and read one frame of 200 bytes in one process."""
    memory = memoryview(bytearray(HEADER_BYTES + (1 << 20)))
    writer, reader, frame = RingWriter(memory), RingReader(memory), bytes(200)

    def once() -> None:
        writer.try_write(frame)
        reader.read()
        reader.space_wanted()

    return timed(once, rounds)


def channel_round_trip(rounds: int) -> list[float]:
    """A query to another process and its reply, both sides parked in between."""
    client = ClientEnd()
    child = start_engine(SPEC, [client.handle], fake_engine("--echo-queries"))

    def once() -> None:
        client.send([Query(1, "x")])
        while True:
            wait([client.wakeup], None)
            if any(isinstance(message, Reply) for message in client.recv()):
                return

    samples = timed(once, rounds)
    client.send([Shutdown()])
    child.process.wait()
    return samples


async def first_update(rounds: int) -> list[float]:
    """`open` of a one-token request until its stream has ended, in an event loop."""
    client = await EngineClient.start(SPEC, command=fake_engine())
    samples = []
    for number in range(rounds):
        started = time.perf_counter()
        async for _ in client.open([Submit(str(number), b"abcd", GenerationConfig())]):
            pass
        samples.append(time.perf_counter() - started)
    await client.close()
    return samples


async def streamed_tokens(num_streams: int, num_tokens: int) -> float:
    """Tokens per second through the client, from an engine that does nothing else."""
    client = await EngineClient.start(SPEC, command=fake_engine())
    config = GenerationConfig(max_tokens=num_tokens, ignore_eos=True)

    async def read(name: str) -> int:
        stream = client.open([Submit(name, struct.pack("<i", 7), config)])
        return sum([delta.num_tokens async for update in stream for delta in update.deltas])

    started = time.perf_counter()
    total = sum(await asyncio.gather(*(read(str(n)) for n in range(num_streams))))
    seconds = time.perf_counter() - started
    await client.close()
    return total / seconds


def timed(once: Callable[[], None], rounds: int) -> list[float]:
    """Seconds of every round, after some to warm up."""
    samples = []
    for number in range(rounds + 100):
        started = time.perf_counter()
        once()
        if number >= 100:
            samples.append(time.perf_counter() - started)
    return samples


def main(rounds: int) -> None:
    """Measure and print."""
    rows = {
        "ring, one process": ring_alone(rounds),
        "channel round trip": channel_round_trip(rounds),
        "open to end, asyncio": asyncio.run(first_update(rounds)),
        "open to end, uvloop": uvloop.run(first_update(rounds)),
    }
    print(f"{'microseconds':24}{'p50':>9}{'p99':>9}{'p99.9':>9}")
    for name, samples in rows.items():
        cuts = statistics.quantiles(samples, n=1000)
        print(f"{name:24}" + "".join(f"{cuts[at] * 1e6:9.1f}" for at in (499, 989, 998)))
    rate = uvloop.run(streamed_tokens(64, 2000))
    print(f"64 streams, uvloop: {rate:,.0f} tokens/s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
