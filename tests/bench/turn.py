"""Where the time of the engine's turns goes while it decodes: everything but the kernels' shares.

    PYTHONPATH=pkg:workers:api:tests python tests/bench/turn.py MODEL [--streams 1 4 16] ...

Medians over the steps of the second half of a batch, from the engine's own trace: `run` is the call
of the compiled step with its inputs (`step.py` splits it by kernel), `rest` what lies between one
turn's end and the next one's plan: reading commands, writing the frame of deltas, the trace itself.
Timestamps are whole microseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
from typing import Any

import uvloop

from bench.engine import Bench, share_priority
from mlc_llm.models.folder import open_folder
from mlc_llm.models.resolve import resolve_model
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.serve.client.client import EngineClient
from mlc_llm.tracing.events import ENGINE, Event

PARTS = (Event.PLAN, Event.RUN, Event.SAMPLING, Event.SETTLE, Event.DETOKENIZATION)


def spans(trace: list[dict[str, Any]], event: Event) -> list[tuple[int, int]]:
    """(start, end) in microseconds of every occurrence in the batch, in order."""
    mine = [e for e in trace if e["tid"] == ENGINE and e["name"].startswith(f"{event.value} (")]
    starts = sorted(e["ts"] for e in mine if e["ph"] == "B")
    ends = sorted(e["ts"] for e in mine if e["ph"] == "E")
    return list(zip(starts, ends, strict=True))


def shares(trace: list[dict[str, Any]], steps: int) -> dict[str, float]:
    """The median microseconds of each part, and of a whole turn, over the last `steps` steps."""
    found = {event.value: spans(trace, event)[-steps:] for event in PARTS}
    plans = [start for start, _ in found[Event.PLAN.value]]
    answered = [end for _, end in found[Event.DETOKENIZATION.value]]
    medians = {
        name: statistics.median(end - start for start, end in parts)
        for name, parts in found.items()
    }
    pairs = zip(answered[:-1], plans[1:], strict=True)
    medians["rest"] = statistics.median(following - end for end, following in pairs)
    turns = itertools.pairwise(plans)
    medians["turn"] = statistics.median(following - start for start, following in turns)
    return medians


async def run(args: argparse.Namespace) -> None:
    """Start an engine, decode, print a line for each number of streams."""
    model = resolve_model(args.model)
    most = max(args.streams)
    spec = EngineSpec(
        model=str(model),
        quantization=args.quantization,
        mode="server",
        prefix_cache_mode="disable",
        prefill_mode="chunked",  # all prompts first: then all decode together
        enable_tracing=True,
        max_num_sequence=most,
        max_total_sequence_length=most * (args.context + args.tokens + 64),
    )
    client = await EngineClient.start(spec)
    share_priority(client.ready.pid)
    try:
        bench = Bench(client, open_folder(model).architecture.vocab_size)
        names = [*(event.value for event in PARTS), "rest", "turn"]
        print("us a step" + "".join(f"{name:>15}" for name in names))
        for streams in args.streams:
            wave = (bench.generate(args.context, args.tokens) for _ in range(streams))
            await asyncio.gather(*wave)
            found = shares(json.loads(await client.trace()), args.tokens // 2)
            print(f"{streams:9}" + "".join(f"{found[name]:15.0f}" for name in names), flush=True)
    finally:
        await client.close()


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--quantization")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=96)
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
