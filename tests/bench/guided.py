"""What it costs to follow a grammar: tokens per second guided and not, and where the time goes.

    PYTHONPATH=pkg:workers:api:tests python tests/bench/guided.py MODEL [--batch 1 16] ...

First the parts by themselves, in this process: compiling, and one token's mask, pick and step along
the grammar. Then a real engine: how long a stream stands still when the first grammar of all comes,
and batches that follow a schema beside batches that do not, in turns. The tokenizer should be that
of a real model: `random_model.py` pads its own with words that no text has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
import numpy as np
import uvloop

from bench.engine import GREEDY, Bench, share_priority
from mlc_llm.models.folder import ModelFolder, open_folder
from mlc_llm.models.resolve import resolve_model
from mlc_llm.protocol.generation import Grammar
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.serve.client.client import EngineClient
from mlc_workers.guided.masks import MaskFiller
from mlc_workers.guided.service import Compiled, loader
from mlc_workers.request import Choice, Request, RequestKey
from mlc_workers.sampling.mask import Mask
from mlc_workers.sampling.sampler import NumpySampler, Pick

PEOPLE: dict[str, Any] = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3},
            "note": {"type": "string", "pattern": "^[A-Z][a-z ]{3,30}$"},
        },
        "required": ["name", "age", "tags", "note"],
        "additionalProperties": False,
    },
}
LONG_KEYS: dict[str, Any] = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            f"a_rather_long_name_of_property_number_{i}": {"type": "boolean"} for i in range(6)
        },
        "required": [f"a_rather_long_name_of_property_number_{i}" for i in range(6)],
        "additionalProperties": False,
    },
}
GRAMMARS = {
    "objects": Grammar("json_schema", json.dumps(PEOPLE), "objects"),
    "long keys": Grammar("json_schema", json.dumps(LONG_KEYS), "long keys"),
    "any JSON": Grammar("json_schema", '{"type":"array","minItems":1000}', "any JSON"),
    "regex": Grammar("regex", "([a-z]{3,9} [0-9]{1,3}, ){1000}", "regex"),
}
"""None of them lets an answer end before a run does."""

WALK = 300
"""Tokens of a walk along each grammar."""

T = TypeVar("T")


def show_parts(folder: ModelFolder, batch: int) -> None:
    """Microseconds of a step's parts for `batch` choices, by grammar."""
    vocab_size = folder.architecture.vocab_size
    load = loader(folder.path / "tokenizer.json", vocab_size, folder.eos_token_ids)
    compiler, took = timed(load)
    print(f"tokenizer of {vocab_size}: {took / 1e6:.2f} s")
    columns = ("compile", "masks", "p99", "pick", "unguided", "accept")
    print(f"{f'us, batch of {batch}':20}" + "".join(f"{column:>10}" for column in columns))
    for name, grammar in GRAMMARS.items():
        compiled, took = timed(partial(compiler.compile, grammar))
        parts = walked(compiled, batch, vocab_size)
        means = [statistics.mean(part) for part in parts]
        means.insert(1, float(np.percentile(parts[0], 99)))
        print(f"{name:20}" + "".join(f"{cell:10.0f}" for cell in (took, *means)))


def walked(compiled: Compiled, batch: int, vocab_size: int) -> list[list[float]]:
    """Microseconds of masks, picks, picks without masks, and steps along the grammar, `WALK` times.

    The answers are greedy over random logits.
    """
    sampler, filler = NumpySampler(vocab_size), MaskFiller(vocab_size)
    choices = [_choice(compiled) for _ in range(batch)]
    memories = [sampler.open(GREEDY, 0) for _ in choices]
    rows = np.random.default_rng(0).standard_normal((batch, vocab_size), np.float32)
    parts: list[list[float]] = [[], [], [], []]
    for _ in range(WALK):
        rows = np.roll(rows, 12345, axis=1)
        filling = filler.begin(choices)
        assert filling is not None
        outcomes, fill = timed(filling.result)
        masks = [mask for mask in outcomes if isinstance(mask, Mask)]
        picks, pick = timed(partial(sampler.sample, rows, memories, masks))
        _, free = timed(partial(sampler.sample, rows, memories))
        _, accept = timed(partial(_accept, choices, picks))
        for part, took in zip(parts, (fill, pick, free, accept), strict=True):
            part.append(took)
    return parts


def _accept(choices: Sequence[Choice], picks: Sequence[Pick | Exception]) -> None:
    for choice, pick in zip(choices, picks, strict=True):
        assert choice.guide is not None
        assert isinstance(pick, Pick)
        choice.guide.accept(pick.token_id)


def _choice(compiled: Compiled) -> Choice:
    choice = Request(RequestKey(0, "bench"), [1], GREEDY).choices[0]
    choice.guide = compiled.open(frozenset())
    return choice


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and the microseconds it took."""
    began = time.perf_counter()
    done = work()
    return done, 1e6 * (time.perf_counter() - began)


async def show_stall(bench: Bench) -> None:
    """The longest gap of a stream that runs while the first grammar comes, and before it."""
    stream = asyncio.create_task(bench.generate(32, 160))
    await asyncio.sleep(1.0)
    config = msgspec.structs.replace(GREEDY, grammar=GRAMMARS["regex"])
    first = await bench.generate(16, 2, config)
    print(f"first grammar of the engine: {1e3 * first[0][0]:.0f} ms to its first token", end="; ")
    at = [seconds for seconds, _ in await stream]
    gaps = 1e3 * np.diff(at)
    print(f"a stream beside it: gaps p50 {np.median(gaps):.1f} ms, worst {gaps.max():.1f} ms")


async def run(args: argparse.Namespace) -> None:
    """Start an engine, measure in turns, print."""
    model = resolve_model(args.model)
    folder = open_folder(model)
    show_parts(folder, max(args.batch))
    spec = EngineSpec(
        model=str(model),
        quantization=args.quantization,
        mode="server",
        prefix_cache_mode="disable",
        prefill_mode="chunked",  # all prompts first: then all decode together
        max_num_sequence=max(args.batch),
        max_total_sequence_length=max(args.batch) * (args.context + args.tokens + 64) + 512,
    )
    client = await EngineClient.start(spec)
    share_priority(client.ready.pid)
    try:
        bench = Bench(client, folder.architecture.vocab_size)
        await show_stall(bench)
        print(f"{'tok/s':32}{'unguided':>10}{'guided':>10}{'ratio':>8}")
        for batch in args.batch:
            for temperature in args.temperature:
                for name in args.grammar:
                    await show_rates(bench, args, batch, temperature, name)
    finally:
        await client.close()


async def show_rates(
    bench: Bench, args: argparse.Namespace, batch: int, temperature: float, name: str
) -> None:
    """One line: medians of rounds that take turns."""
    free = msgspec.structs.replace(GREEDY, temperature=temperature)
    guided = msgspec.structs.replace(free, grammar=GRAMMARS[name])
    await bench.generate(4, 1, guided)  # compiles it
    rounds = []
    for _ in range(args.rounds):
        plain = await bench.decode(args.context, batch, args.tokens, free)
        rounds.append((plain, await bench.decode(args.context, batch, args.tokens, guided)))
    plain, followed = (statistics.median(rates) for rates in zip(*rounds, strict=True))
    ratio = statistics.median(g / f for f, g in rounds)
    label = f"batch {batch}, T={temperature:g}, {name}"
    print(f"{label:32}{plain:10.1f}{followed:10.1f}{ratio:8.3f}", flush=True)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--quantization")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--grammar", nargs="+", choices=GRAMMARS, default=list(GRAMMARS))
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
