"""What is measured, and the one line of JSON every driver prints. Knows no engine.

The drivers of this folder run inside the interpreters of other engines: this module imports the
standard library alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

MOST_REPEATS = 7
"""Times a shape is measured at most, however short it is."""


@dataclass(frozen=True)
class Shape:
    """`sequences` prompts of `prompt` tokens at once, each continued by `tokens` tokens."""

    sequences: int
    prompt: int
    tokens: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """From `4x128x32`. Raises ValueError for anything else."""
        sequences, prompt, tokens = (int(part) for part in text.split("x"))
        if min(sequences, prompt, tokens) < 1:
            raise ValueError(f"{text}: every number of a shape is at least 1")
        return cls(sequences, prompt, tokens)

    def __str__(self) -> str:
        return f"{self.sequences}x{self.prompt}x{self.tokens}"


@dataclass(frozen=True)
class Rates:
    """Tokens per second; None where a shape does not show it.

    prefill: prompt tokens until the first token. decode: generated tokens of all sequences
    together, after each of them has its first.
    """

    prefill: float | None
    decode: float | None


Measure = Callable[[Shape], Rates]


def driver_parser(doc: str | None) -> argparse.ArgumentParser:
    """The command line that every driver has."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else None)
    parser.add_argument("model", help="what this engine loads: a folder or a file")
    parser.add_argument("--shape", type=Shape.parse, action="append", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=1.0, help="repeat a shape for so long")
    return parser


def measured(shapes: list[Shape], measure: Measure, seconds: float) -> dict[str, dict[str, float]]:
    """The median rates of every shape; each is measured once at least."""
    return {str(shape): _median(list(_repeat(shape, measure, seconds))) for shape in shapes}


def report(engine: str, rates: dict[str, dict[str, float]], **more: object) -> None:
    """Print the line that `peers.py` reads."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(json.dumps({"engine": engine, "shapes": rates, "peak_rss_mib": peak} | more), flush=True)


def _repeat(shape: Shape, measure: Measure, seconds: float) -> Iterator[Rates]:
    until = time.perf_counter() + seconds
    for _ in range(MOST_REPEATS):
        yield measure(shape)
        if time.perf_counter() > until:
            return


def _median(samples: list[Rates]) -> dict[str, float]:
    rows = [asdict(sample) for sample in samples]
    found = {name: [row[name] for row in rows if row[name] is not None] for name in rows[0]}
    return {name: statistics.median(values) for name, values in found.items() if values}
