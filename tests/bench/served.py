"""What serving over HTTP costs: streams, and the engine alone under the same load. Prints a table.

    PYTHONPATH=pkg:workers:api:tests python tests/bench/served.py MODEL [--streams 1 4 8 16] ...

For every number of streams and every round, the engine alone (its process, channel and scheduler,
driven as the web process drives it) and then the server, each with waves of as many requests as
there are streams: random prompts of fixed length, a fixed number of tokens, greedy, nothing cached.
The HTTP client is a process of its own, on the same cores as everything else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import httpx
import numpy as np
import psutil
import uvloop

from bench.engine import Bench, share_priority
from mlc_llm.models.folder import open_folder
from mlc_llm.models.resolve import resolve_model
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.serve.client.client import EngineClient

ROOM = 64
"""Tokens of the KV cache beyond what a request fills: half-filled pages."""

START_SECONDS = 120.0


class Load(NamedTuple):
    """`waves` times `streams` requests at once, each `prompt` tokens in and `tokens` out."""

    streams: int
    prompt: int
    tokens: int
    waves: int


class Seen(NamedTuple):
    """What a load came to: tokens/s of all streams, milliseconds to first and between tokens."""

    rate: float
    ttft: list[float]
    gaps: list[float]


Times = list[tuple[float, list[float]]]
"""When each request was sent and when each of its pieces came."""


def seen(waves: Sequence[Times], tokens: int) -> Seen:
    """Sums up what was timed; a request's tokens count from the sending of its wave."""
    spent = sum(max(at[-1] for _, at in wave) - min(sent for sent, _ in wave) for wave in waves)
    requests = [request for wave in waves for request in wave]
    return Seen(
        len(requests) * tokens / spent,
        [1e3 * (at[0] - sent) for sent, at in requests],
        [1e3 * gap for _, at in requests for gap in np.diff(at).tolist()],
    )


async def alone(bench: Bench, load: Load) -> Seen:
    """The load, without HTTP."""

    async def one() -> tuple[float, list[float]]:
        sent = time.perf_counter()
        return sent, [sent + at for at, _ in await bench.generate(load.prompt, load.tokens)]

    waves = []
    for _ in range(load.waves):
        waves.append(await asyncio.gather(*(one() for _ in range(load.streams))))
    return seen(waves, load.tokens)


def over_http(port: int, vocab_size: int, load: Load, seed: int) -> Seen:
    """The load, from a client process."""
    given = [port, vocab_size, *load, seed]
    command = [sys.executable, __file__, "--client", *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return seen(json.loads(done.stdout), load.tokens)


async def be_the_client(port: int, vocab_size: int, load: Load, seed: int) -> list[Times]:
    """Sends the waves over raw sockets: no client library is in the way."""
    random = np.random.default_rng(seed)

    async def one(prompt: int, tokens: int) -> tuple[float, list[float]]:
        body = {
            "prompt": random.integers(4, vocab_size, prompt).tolist(),
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        content = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
        sent = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + content)
        at = []
        while data := await reader.read(1 << 16):
            if b'"text"' in data:
                at.append(time.perf_counter())
        writer.close()
        return sent, at

    await one(4, 1)  # what this process does for the first time is not the server's
    waves = []
    for _ in range(load.waves):
        requests = (one(load.prompt, load.tokens) for _ in range(load.streams))
        waves.append(await asyncio.gather(*requests))
    return waves


@contextlib.contextmanager
def server(args: argparse.Namespace, spec: EngineSpec) -> Iterator[None]:
    """`mlc_llm serve`, with the limits and the scheduling priority of the engine alone."""
    command = [sys.executable, "-m", "mlc_llm", "serve", args.model, "--port", str(args.port)]
    command += ["--mode", "server", "--prefix-cache-mode", "disable"]
    command += ["--quantization", args.quantization] if args.quantization else []
    command += ["--overrides", f"max_num_sequence={spec.max_num_sequence}"]
    command[-1] += f";max_total_seq_length={spec.max_total_sequence_length}"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + START_SECONDS
        while not is_healthy(args.port):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the server did not start: {' '.join(command)}")
            time.sleep(0.1)
        for child in psutil.Process(process.pid).children(recursive=True):
            share_priority(child.pid)
        yield
    finally:
        process.terminate()
        process.wait()


def is_healthy(port: int) -> bool:
    """Whether a server answers there."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False


async def run(args: argparse.Namespace) -> None:
    """Start both, measure in turns, print."""
    vocab_size = open_folder(resolve_model(args.model)).architecture.vocab_size
    most = max(args.streams)
    spec = EngineSpec(
        model=str(resolve_model(args.model)),
        quantization=args.quantization,
        mode="server",
        prefix_cache_mode="disable",
        max_num_sequence=most,
        max_total_sequence_length=most * (args.prompt + args.tokens + ROOM),
    )
    client = await EngineClient.start(spec)
    share_priority(client.ready.pid)
    try:
        bench = Bench(client, vocab_size)
        with server(args, spec):
            print(HEAD)
            for streams in args.streams:
                load = Load(streams, args.prompt, args.tokens, args.waves)
                rounds = []
                for number in range(args.rounds):
                    engine = await alone(bench, load)
                    rounds.append((engine, over_http(args.port, vocab_size, load, number)))
                show(streams, rounds)
    finally:
        await client.close()


HEAD = f"""{"":8} {"engine alone":>26} | {"over HTTP, ms":>53}
{"streams":>8} {"tok/s":>8} {"TTFT":>8} {"gap":>8} | {"tok/s":>8} {"share":>6} \
{"TTFT p50":>9} {"p99":>8} {"gap p50":>8} {"p99":>8}"""


def show(streams: int, rounds: Sequence[tuple[Seen, Seen]]) -> None:
    """One line: medians of the rounds, percentiles over all of them."""
    engines, servers = zip(*rounds, strict=True)
    rate = statistics.median(one.rate for one in engines)
    served = statistics.median(one.rate for one in servers)
    share = statistics.median(s.rate / e.rate for e, s in rounds)
    ttft = np.concatenate([one.ttft for one in servers])
    gaps = np.concatenate([one.gaps for one in servers])
    print(
        f"{streams:8} {rate:8.1f} {np.median(np.concatenate([e.ttft for e in engines])):8.1f} "
        f"{np.median(np.concatenate([e.gaps for e in engines])):8.2f} | {served:8.1f} {share:6.0%} "
        f"{np.median(ttft):9.1f} {np.percentile(ttft, 99):8.1f} "
        f"{np.median(gaps):8.2f} {np.percentile(gaps, 99):8.2f}",
        flush=True,
    )


def main() -> None:
    """Measure what the command line asks for."""
    if sys.argv[1:2] == ["--client"]:
        port, vocab_size, *load, seed = map(int, sys.argv[2:])
        times = uvloop.run(be_the_client(port, vocab_size, Load(*load), seed))
        print(json.dumps(times))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--quantization")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--waves", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=18400)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends both engines, too
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
