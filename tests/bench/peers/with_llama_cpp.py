"""Measure llama.cpp by its own `llama-batched-bench`. Needs the standard library alone.

The tool times the prompts and the tokens of every batch itself; it does not sample.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

from shapes import Rates, Shape, driver_parser, measured, report

TOOL = "llama-batched-bench"
ROOM = 64
"""Positions of the KV cache beyond what a shape fills."""


class LlamaCpp:
    """Runs the tool once for every shape."""

    def __init__(self, tools: Path, model: str, threads: int) -> None:
        self.tool = tools.absolute() / TOOL
        self.model = model
        self.threads = threads

    def measure(self, shape: Shape) -> Rates:
        """Rates of one shape. Raises RuntimeError when the tool says nothing."""
        command = [
            str(self.tool),
            *("-m", self.model, "-t", str(self.threads), "-tb", str(self.threads)),
            *("-c", str(shape.sequences * (shape.prompt + shape.tokens) + ROOM)),
            *("-b", "2048", "-ub", "512", "--output-format", "jsonl"),
            *("-npp", str(shape.prompt), "-ntg", str(shape.tokens)),
            *("-npl", str(shape.sequences)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if not rows:
            raise RuntimeError(f"{TOOL} measured nothing: {done.stderr[-500:]}")
        return Rates(rows[-1]["speed_pp"], rows[-1]["speed_tg"])


def version(tool: Path) -> str:
    """What the tool calls itself: `version: 123 (abcdef)`; empty when it says nothing."""
    done = subprocess.run([str(tool), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version:\s*(.+)", done.stdout + done.stderr)
    return found.group(1) if found else ""


def main() -> None:
    """Measure and print; a terminated driver takes the tool with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = driver_parser(__doc__)
    parser.add_argument("--tools", type=Path, required=True, help=f"the folder of {TOOL}")
    args = parser.parse_args()
    engine = LlamaCpp(args.tools, args.model, args.threads)
    rates = measured(args.shape, engine.measure, args.seconds)
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    report(f"llama.cpp {version(engine.tool)}".strip(), rates, peak_rss_mib=children)


if __name__ == "__main__":
    main()
