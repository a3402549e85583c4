"""How fast the whole engine is: real process, real channel, real scheduler. Prints tables.

    PYTHONPATH=pkg:workers:api:tests python tests/bench/engine.py MODEL [--quantization q4f16_1] ...

Every request ignores end tokens and has its own random prompt, so nothing is cached and every run
generates the same number of tokens. The read ceiling is measured in the same run, before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import psutil
import uvloop

from mlc_llm.models.folder import open_folder
from mlc_llm.models.parameters import parameters
from mlc_llm.models.resolve import resolve_model
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import Progress, Submit
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.quantization.scheme import Scheme
from mlc_llm.serve.client.client import EngineClient
from mlc_llm.weights.load import choose_scheme, weights_bytes

LARGE = 16 << 20
"""Bytes from which a mapping without a name holds weights, KV pages or logits."""
GREEDY = GenerationConfig(temperature=0.0, ignore_eos=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--quantization")
    parser.add_argument("--prefill", type=int, nargs="*", default=[128, 512])
    parser.add_argument("--context", type=int, nargs="*", default=[128, 2048])
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 4, 8, 16])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeat", type=int, default=3)
    return parser.parse_args()


def ceilings() -> dict[str, float | None]:
    """Read bandwidth and int8 peak of this moment."""
    script = Path(__file__).with_name("ceiling.py")
    done = subprocess.run(
        [sys.executable, str(script), "0.6"], capture_output=True, text=True, check=True
    )
    found: dict[str, float | None] = json.loads(done.stdout.splitlines()[-1])
    return found


class Bench:
    """One engine and the clock around it."""

    def __init__(self, client: EngineClient, vocab_size: int) -> None:
        self.client = client
        self.vocab_size = vocab_size
        self.random = np.random.default_rng(0)
        self.serial = 0

    async def generate(
        self, prompt_tokens: int, max_tokens: int, config: GenerationConfig = GREEDY
    ) -> list[tuple[float, int]]:
        """(seconds since submission, tokens) of every update of one request."""
        self.serial += 1
        ids = self.random.integers(4, self.vocab_size, prompt_tokens, dtype=np.int32)
        config = msgspec.structs.replace(config, max_tokens=max_tokens)
        submit = Submit(f"bench-{self.serial}", ids.tobytes(), config, time.time())
        started = time.perf_counter()
        seen: list[tuple[float, int]] = []
        stream = self.client.open([submit])
        async for update in stream:
            tokens = sum(delta.num_tokens for delta in update.deltas)
            if tokens:
                seen.append((time.perf_counter() - started, tokens))
        return seen

    async def prefill(self, tokens: int, repeat: int) -> float:
        """Prompt tokens per second, the median of `repeat` prompts."""
        times = [(await self.generate(tokens, 1))[-1][0] for _ in range(repeat)]
        return tokens / statistics.median(times)

    async def decode(
        self, context: int, batch: int, tokens: int, config: GenerationConfig = GREEDY
    ) -> float:
        """Generated tokens per second of the whole batch while all of it decodes."""
        started = time.perf_counter()
        runs = await asyncio.gather(*(self._timed(context, tokens, config) for _ in range(batch)))
        first = max(run[0][0] for run in runs) - started
        last = min(run[-1][0] for run in runs) - started
        inside = sum(n for run in runs for at, n in run if first < at - started <= last)
        return inside / (last - first)

    async def _timed(
        self, context: int, tokens: int, config: GenerationConfig
    ) -> list[tuple[float, int]]:
        started = time.perf_counter()
        return [(started + at, n) for at, n in await self.generate(context, tokens, config)]


def step_bytes(model: Path, scheme: Scheme) -> int:
    """Weight bytes that one decode step streams: all but an untied embedding."""
    arch = open_folder(model).architecture
    total = weights_bytes(arch, scheme)
    if arch.tie_word_embeddings:
        return total
    embedding = parameters(arch)[0]
    table = embedding.tensors(scheme.format_of(embedding.name))
    sizes = (int(np.prod(t.shape)) * np.dtype(t.dtype).itemsize for t in table)
    return total - sum(sizes)


async def run(args: argparse.Namespace) -> None:
    """Start the engine, measure, print."""
    model = resolve_model(args.model)
    folder = open_folder(model)
    scheme = choose_scheme(folder, args.quantization)
    before = ceilings()
    longest = max([*args.prefill, *(c + args.tokens for c in args.context)]) + 16
    most = max(args.batch)
    spec = EngineSpec(
        model=str(model),
        quantization=args.quantization,
        mode="server",
        max_num_sequence=most,
        max_total_sequence_length=max(longest, most * (128 + args.tokens + 16)) + 512,
        prefix_cache_mode="disable",
        prefill_mode="chunked",  # all prompts first: then all decode together
    )
    started = time.perf_counter()
    client = await EngineClient.start(spec, on_progress=_show)
    startup = time.perf_counter() - started
    share_priority(client.ready.pid)
    bench = Bench(client, folder.architecture.vocab_size)
    first = (await bench.generate(4, 1))[0][0]
    print(
        f"{model.name} {scheme.name}: ready after {startup:.2f} s, then first token {first:.3f} s"
    )
    for decision in client.ready.decisions:
        print("  ", decision)
    weights = step_bytes(model, scheme) / 1e9
    for tokens in args.prefill:
        rate = await bench.prefill(tokens, args.repeat)
        print(f"prefill {tokens:5}: {rate:8.1f} tok/s")
    for context in args.context:
        rates = [await bench.decode(context, 1, args.tokens) for _ in range(args.repeat)]
        _print_decode(f"decode @{context}", statistics.median(rates), 1, weights, before)
    for batch in args.batch:
        if batch > 1:
            rates = [await bench.decode(128, batch, args.tokens) for _ in range(args.repeat)]
            _print_decode(f"batch {batch}", statistics.median(rates), batch, weights, before)
    stats = await client.stats()
    overhead = stats.plan_settle_seconds_total / max(stats.num_steps, 1) * 1e6
    print(f"plan + settle: {overhead:.0f} us a step over {stats.num_steps} steps")
    _print_memory(client.ready.pid, weights_bytes(folder.architecture, scheme))
    await client.close()
    after = ceilings()
    print(f"read ceiling: {before['read_gb_s']:.1f} GB/s before, {after['read_gb_s']:.1f} after;")
    if before["int8_gmac_s"]:
        print(f"int8 peak: {before['int8_gmac_s']:.0f} GMAC/s")


def share_priority(engine_pid: int) -> None:
    """Give the engine, which is in a session of its own, this session's scheduling priority."""
    try:
        own = Path("/proc/self/autogroup").read_text().split()[-1]
        Path(f"/proc/{engine_pid}/autogroup").write_text(own)
    except OSError:
        return  # no autogroups here


def _show(progress: Progress) -> None:
    print(f"  [{progress.stage}] {progress.message}", file=sys.stderr)


def _print_decode(
    name: str, rate: float, batch: int, weights: float, ceiling: dict[str, float | None]
) -> None:
    read = rate / batch * weights
    share = read / (ceiling["read_gb_s"] or 1)
    print(f"{name:13}: {rate:8.1f} tok/s, {read:5.1f} GB/s of weights, {share:4.0%} of the ceiling")


def _print_memory(engine_pid: int, weights: int) -> None:
    own = psutil.Process().memory_info().rss >> 20
    kinds = dict.fromkeys(("arrays", "C heap", "libraries", "Python and the rest"), 0)
    for mapping in psutil.Process(engine_pid).memory_maps(grouped=False):
        kinds[_kind(mapping.path, mapping.size)] += mapping.rss
    parts = ", ".join(f"{name} {size / (1 << 20):.0f}" for name, size in kinds.items())
    print(f"RSS: engine {sum(kinds.values()) >> 20} MiB, client {own} MiB")
    print(f"  engine: {parts}; weights are {weights >> 20} of the arrays")


def _kind(path: str, size: int) -> str:
    """What a mapping of the engine holds."""
    if path == "[heap]":
        return "C heap"
    if path.startswith("/"):
        return "libraries"
    return "arrays" if size >= LARGE else "Python and the rest"


if __name__ == "__main__":
    uvloop.run(run(arguments()))
