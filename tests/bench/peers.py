"""This engine beside llama.cpp, OpenVINO GenAI and ONNX Runtime GenAI. Prints tables.

    PYTHONPATH=pkg:workers:api:tests python tests/bench/peers.py MODEL \
        --ov VENV:DIR --ort VENV:DIR --llama-cpp BINDIR:GGUF

Engines take turns, piece by piece and round by round, since the speed of a shared machine drifts;
the ceilings are measured before every turn-taking. README.md says how to prepare the engines.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
DRIVERS = HERE / "peers"
sys.path.insert(0, str(DRIVERS))

from columns import OURS, PIECES, Sample, rates, ratios, shares, table
from roofline import Ceilings, model_shape

from mlc_workers.runner.cores import usable_cores


@dataclass(frozen=True)
class Engine:
    """How one engine's driver is started."""

    name: str
    command: tuple[str, ...]


def pair(text: str) -> tuple[str, str]:
    """`LEFT:RIGHT`, both not empty."""
    left, colon, right = text.partition(":")
    if not (left and colon and right):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form LEFT:RIGHT")
    return left, right


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="a Hugging Face folder")
    parser.add_argument("--ov", type=pair, help="VENV:DIR of OpenVINO GenAI")
    parser.add_argument("--ov-backend", choices=["PA", "SDPA"], default="PA")
    parser.add_argument("--ort", type=pair, help="VENV:DIR of ONNX Runtime GenAI")
    parser.add_argument("--llama-cpp", type=pair, help="BINDIR:GGUF of llama.cpp")
    parser.add_argument("--without-ours", action="store_true")
    parser.add_argument("--quantization", default="q4f16_1", help="of this engine")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--piece", choices=PIECES, action="append", help="only these")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="repeat a shape for so long")
    parser.add_argument("--timeout", type=float, default=180, help="seconds for one driver")
    parser.add_argument("--wrap", default="", help="command to run every measurement under")
    parser.add_argument("--save", type=Path, help="append every sample to this file")
    parser.add_argument("--load", type=Path, help="print the tables of a saved file, run nothing")
    return parser.parse_args()


def engines(args: argparse.Namespace) -> list[Engine]:
    """Those of the command line, ours first."""
    found = []
    if not args.without_ours:
        own = (sys.executable, str(DRIVERS / "with_mlc_llm.py"), str(args.model))
        found.append(Engine(OURS, (*own, "--quantization", args.quantization)))
    for name, option, driver, more in (
        ("OpenVINO GenAI", args.ov, "with_openvino.py", ("--backend", args.ov_backend)),
        ("ONNX Runtime GenAI", args.ort, "with_onnxruntime.py", ()),
    ):
        if option is not None:
            python = str(Path(option[0], "bin", "python"))
            found.append(Engine(name, (python, str(DRIVERS / driver), option[1], *more)))
    if args.llama_cpp is not None:
        tools, gguf = args.llama_cpp
        own = (sys.executable, str(DRIVERS / "with_llama_cpp.py"), gguf)
        found.append(Engine("llama.cpp", (*own, "--tools", tools)))
    return found


def last_json(command: Sequence[str], wrap: str, timeout: float) -> dict[str, Any]:
    """The last line a command prints. Raises RuntimeError when it fails or takes too long."""
    process = subprocess.Popen(
        [*shlex.split(wrap), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"took longer than {timeout:.0f} s") from None
    finally:
        _end(process)
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if process.returncode or not lines:
        words = err.strip().splitlines() or ["it said nothing"]
        raise RuntimeError(f"exit status {process.returncode}: {words[-1]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _end(process: subprocess.Popen[str]) -> None:
    """Terminate a process that still runs, with all that it started."""
    if process.poll() is not None:
        return
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.terminate()
    for member in psutil.wait_procs(family, timeout=5)[1]:
        member.kill()
    process.wait()


def ceilings(args: argparse.Namespace) -> Ceilings:
    """The limits of this moment, for as many threads as the engines get."""
    threads = f"TVM_NUM_THREADS={args.threads}"
    command = ("env", threads, sys.executable, str(HERE / "ceiling.py"), "0.5")
    return Ceilings(**last_json(command, args.wrap, args.timeout))


def measure(args: argparse.Namespace) -> Iterator[Sample]:
    """Every engine, piece and round; an engine that fails says so and is left out."""
    for piece, number in itertools.product(args.piece or PIECES, range(args.rounds)):
        now = ceilings(args)
        for engine in engines(args):
            shapes = [word for shape in PIECES[piece] for word in ("--shape", str(shape))]
            limits = ("--threads", str(args.threads), "--seconds", str(args.seconds))
            try:
                found = last_json((*engine.command, *limits, *shapes), args.wrap, args.timeout)
            except RuntimeError as error:
                print(f"{engine.name}, {piece}, round {number + 1}: {error}", file=sys.stderr)
                continue
            print(f"{piece} {number + 1}: {json.dumps(found)}", file=sys.stderr)
            yield Sample(engine.name, found["shapes"], now)


def saved(path: Path) -> list[Sample]:
    """The samples of a file that `--save` wrote."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [Sample(r["engine"], r["shapes"], Ceilings(**r["ceilings"])) for r in rows]


def write_tables(model: Path, samples: list[Sample]) -> None:
    """Rates and ratios, the medians and the best of the rounds, and shares of the ceilings."""
    for title, pick in (("medians", statistics.median), ("best", max)):
        found = rates(samples, pick)
        rows = {engine: _format(row, "{:.4g}") for engine, row in found.items()}
        rows["ours / best other"] = _format(ratios(found), "{:.2f}")
        print(table(f"{model.name}, tokens/s, {title}", rows), end="\n\n")
    parts = shares(samples, model_shape(model))
    rows = {engine: _format(row, "{:.0%}") for engine, row in parts.items()}
    print(table("best of the highest ceiling", rows), end="\n\n")
    reads = sorted(sample.ceilings.read_gb_s for sample in samples)
    peaks = sorted(sample.ceilings.int8_gmac_s or 0 for sample in samples)
    print(f"read ceiling {reads[0]:.0f}-{reads[-1]:.0f} GB/s", end="")
    print(f", int8 peak {peaks[0]:.0f}-{peaks[-1]:.0f} GMAC/s" if peaks[-1] else "")


def _format(values: Sequence[float | None], form: str) -> list[str]:
    return ["-" if value is None else form.format(value) for value in values]


def main() -> None:
    """Measure, or read what was measured, and print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what is being measured, too
    args = arguments()
    samples = saved(args.load) if args.load else []
    for sample in () if args.load else measure(args):
        samples.append(sample)
        if args.save:
            with args.save.open("a") as file:
                file.write(json.dumps(asdict(sample)) + "\n")
    if samples:
        write_tables(args.model, samples)
    else:
        sys.exit("nothing was measured")


if __name__ == "__main__":
    main()
