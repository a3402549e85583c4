"""Measure this engine: its own process, channel and scheduler, driven like its clients do.

PYTHONPATH=pkg:workers:api:tests python tests/bench/peers/with_mlc_llm.py MODEL --threads 2 ...
"""

from __future__ import annotations

import asyncio
import time

import psutil
import uvloop
from shapes import Rates, Shape, driver_parser, measured, report

from bench.engine import Bench, share_priority
from mlc_llm.models.folder import open_folder
from mlc_llm.models.resolve import resolve_model
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.serve.client.client import EngineClient
from mlc_llm.weights.load import choose_scheme

ROOM = 64
"""Tokens of the KV cache beyond what a shape fills: half-filled pages."""

Updates = list[tuple[float, int]]
"""(when, tokens) of every update of one request."""


def engine_spec(model: str, quantization: str, threads: int, shapes: list[Shape]) -> EngineSpec:
    """An engine with room for the largest shape and nothing remembered between requests."""
    most = max(s.sequences * (s.prompt + s.tokens + ROOM) for s in shapes)
    return EngineSpec(
        model=model,
        quantization=quantization,
        threads=threads,
        mode="server",
        max_num_sequence=max(s.sequences for s in shapes),
        max_total_sequence_length=most,
        prefix_cache_mode="disable",
        prefill_mode="chunked",  # all prompts first: then all decode together
    )


def rates(shape: Shape, started: float, runs: list[Updates]) -> Rates:
    """Prefill until the last first token; decode while every sequence was decoding."""
    first = max(run[0][0] for run in runs)
    last = min(run[-1][0] for run in runs)
    inside = sum(tokens for run in runs for at, tokens in run if first < at <= last)
    prompts = shape.sequences * shape.prompt
    return Rates(prompts / (first - started), inside / (last - first) if inside else None)


async def measure(bench: Bench, shape: Shape) -> Rates:
    """Submit all prompts at once and watch the clock."""

    async def one() -> Updates:
        submitted = time.perf_counter()
        updates = await bench.generate(shape.prompt, shape.tokens)
        return [(submitted + at, tokens) for at, tokens in updates]

    started = time.perf_counter()
    return rates(shape, started, await asyncio.gather(*(one() for _ in range(shape.sequences))))


def main() -> None:
    """Start the engine, warm up, measure, print."""
    parser = driver_parser(__doc__)
    parser.add_argument("--quantization", default="q4f16_1")
    args = parser.parse_args()
    model = resolve_model(args.model)
    folder = open_folder(model)
    scheme = choose_scheme(folder, args.quantization)
    spec = engine_spec(str(model), scheme.name, args.threads, args.shape)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        client = runner.run(EngineClient.start(spec))
        share_priority(client.ready.pid)
        try:
            bench = Bench(client, folder.architecture.vocab_size)
            runner.run(measure(bench, Shape(1, 32, 4)))
            found = measured(args.shape, lambda s: runner.run(measure(bench, s)), args.seconds)
            memory = psutil.Process(client.ready.pid).memory_info().rss >> 20
        finally:
            runner.run(client.close())
    report(f"ours, {scheme.name}", found, peak_rss_mib=memory)


if __name__ == "__main__":
    main()
