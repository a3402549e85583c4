"""How many streamed tokens a second the web process carries, without a model.

    python tests/bench/frontend.py [--streams 64] [--tokens 2000] [--seconds 15]

The engine is a loop in the server's process that gives every stream one token per step, through the
same request table and streams as the real one; a step comes when every stream has sent the one
before, so nothing merges: a token is an event, and an event is a send. The client is another
process on real loopback sockets. Everything is bounded by count and by time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import uvloop

from mlc_api.app import make_app
from mlc_api.listener import open_listener
from mlc_api.server import make_server
from mlc_api.settings import WebSettings
from mlc_api.sse import EventWriter
from mlc_api.state import Served
from mlc_llm.protocol.messages import Delta, Finished, FinishReason, Stats, StepOutput, Submit
from mlc_llm.serve.answer.delta import Answer
from mlc_llm.serve.client.requests import LiveRequests
from mlc_llm.serve.client.stream import Stream
from support.mock_client import READY, MockPreparer

EVENT = b"data: "


class SteppingEngine:
    """Gives all streams one token per turn of the event loop, once `num_streams` are open."""

    problem: str | None = None
    ready = READY

    def __init__(self, num_streams: int, num_tokens: int) -> None:
        self._requests = LiveRequests(lambda request_id, place: None)
        self._ids: list[str] = []
        self._num_streams = num_streams
        self._num_tokens = num_tokens
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self._stepping: asyncio.Task[None] | None = None

    def open(self, submits: Sequence[Submit]) -> Stream:
        self._ids += [submit.request_id for submit in submits]
        if len(self._ids) == self._num_streams:
            self._stepping = asyncio.create_task(self._steps())
        return self._requests.open([submit.request_id for submit in submits])

    async def stats(self) -> Stats:
        return Stats()

    async def trace(self) -> bytes:
        return b"[]"

    async def reset(self) -> None:
        pass

    async def _steps(self) -> None:
        await asyncio.sleep(0.1)  # the last stream may not be waiting yet
        began, began_cpu = time.perf_counter(), time.process_time()
        for _ in range(self._num_tokens):
            self._requests.dispatch(StepOutput([Delta(id, 0, " word", 1) for id in self._ids]))
            await asyncio.sleep(0)
        self.seconds = time.perf_counter() - began
        self.cpu_seconds = time.process_time() - began_cpu
        last = [Delta(id, 0, "", 0, FinishReason.LENGTH) for id in self._ids]
        ends = [Finished(id, 1, self._num_tokens) for id in self._ids]
        self._requests.dispatch(StepOutput(last, ends))


class Row(NamedTuple):
    """What the table says of one run."""

    streams: int
    tokens: int
    seconds: float
    per_second: float
    cpu_us: float
    rss_mib: float


async def measure(num_streams: int, num_tokens: int, seconds: float) -> Row:
    """One run."""
    engine = SteppingEngine(num_streams, num_tokens)
    served = Served(WebSettings(model_id="mock"), engine, MockPreparer())
    with open_listener("127.0.0.1", 0) as listener:
        server = make_server(make_app(served), 1)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        port = listener.getsockname()[1]
        arguments = [__file__, "--client", str(port), *map(str, (num_streams, seconds))]
        client = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdout=subprocess.PIPE
        )
        output, _ = await client.communicate()
        server.stop()
        await serving
    counted = json.loads(output)
    total = num_streams * num_tokens
    if counted["events"] != total + 2 * num_streams:
        raise SystemExit(f"the client saw {counted['events']} events of {total}")
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Row(
        num_streams, total, engine.seconds, total / engine.seconds,
        engine.cpu_seconds / total * 1e6, rss,
    )  # fmt: skip


def be_the_client(port: int, num_streams: int, seconds: float) -> None:
    """Reads all streams to their end and counts events."""
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    selector = selectors.DefaultSelector()
    tails: dict[int, bytes] = {}
    for _ in range(num_streams):
        connection = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        connection.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
        selector.register(connection, selectors.EVENT_READ)
        tails[connection.fileno()] = b""
    events, deadline = 0, time.monotonic() + seconds
    while selector.get_map() and time.monotonic() < deadline:
        for key, _ in selector.select(1.0):
            assert isinstance(key.fileobj, socket.socket)
            data = key.fileobj.recv(1 << 18)
            events += (tails[key.fd] + data).count(EVENT)
            tails[key.fd] = data[1 - len(EVENT) :]  # too short to hold a whole mark
            if not data:
                selector.unregister(key.fileobj)
                key.fileobj.close()
    print(json.dumps({"events": events}))


def encode_ns(count: int = 200_000) -> float:
    """Nanoseconds that `EventWriter` needs per delta."""
    writer = EventWriter.chat(
        Answer(id="chatcmpl-" + "0" * 32, model="mock", created=1, request_ids=("r",))
    )
    delta = Delta("r", 0, " word", 1)
    writer.deltas([delta])
    began = time.perf_counter()
    for _ in range(count):
        writer.deltas([delta])
    return (time.perf_counter() - began) / count * 1e9


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--tokens", type=int, default=128_000, help="tokens of a run, in all")
    parser.add_argument("--seconds", type=float, default=15, help="most a run may take")
    given = parser.parse_args()
    if given.client:
        port, streams, seconds = given.client
        be_the_client(int(port), int(streams), float(seconds))
        return
    print(f"encoding one event: {encode_ns():.0f} ns\n")
    print(
        f"{'streams':>8} {'tokens':>8} {'s':>6} {'tokens/s':>9} {'cpu us/token':>13} {'RSS MiB':>8}"
    )
    for streams in given.streams:
        row = uvloop.run(measure(streams, max(1, given.tokens // streams), given.seconds))
        print(
            f"{row.streams:8} {row.tokens:8} {row.seconds:6.2f} {row.per_second:9.0f} "
            f"{row.cpu_us:13.2f} {row.rss_mib:8.0f}"
        )


if __name__ == "__main__":
    main()
