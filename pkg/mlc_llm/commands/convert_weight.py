"""`mlc_llm convert_weight`: the weights of a Hugging Face model as MLC stores them."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import NoReturn

from mlc_llm.arguments import ArgumentParser
from mlc_llm.commands.progress import Estimate
from mlc_llm.commands.source import add_arguments, open_source
from mlc_llm.errors import BadConfig
from mlc_llm.kernels.cpu.level import detect
from mlc_llm.models.folder import ModelFolder
from mlc_llm.quantization.group import quantize_halves
from mlc_llm.quantization.search import Search, quantize_closest
from mlc_llm.quantization.storage import STORAGES, storage_by_name
from mlc_llm.weights.convert import convert
from mlc_llm.weights.encoding import Rounder
from mlc_llm.weights.load import available_cores
from mlc_llm.weights.lora import merge
from mlc_llm.weights.sources.find import FILES, find_tensors

ROUNDERS: dict[str, Rounder | None] = {"closest": None, "plain": quantize_halves}
"""How 4-bit codes with float16 scales are chosen; None is what a model is served with."""

COMPILER = "mlc_llm.compiler.build:compile_search"
LARGE = 500_000_000
"""Parameters from which a search that is compiled first ends sooner: TVM takes a second to load."""


def main(argv: Sequence[str]) -> int:
    """Convert; 0 when all is written. Raises `MLCError` and then has left nothing behind."""
    given = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    folder = open_source(given.config, given.model_type)
    begun = time.monotonic()
    tensors = find_tensors(_source(given.source, folder), given.source_format)
    if given.lora_adapter is not None:
        tensors = merge(tensors, given.lora_adapter)
    done = convert(
        folder,
        tensors,
        storage_by_name(given.quantization),
        _output(given.output, folder),
        Estimate("converting"),
        available_cores(),
        _rounder(given.rounding, given.quantization, folder),
    )
    print(
        f"{done.num_tensors} tensors, {done.nbytes / 1e6:.1f} MB, "
        f"{done.nbytes * 8 / done.num_parameters:.3f} bits per parameter, "
        f"in {time.monotonic() - begun:.1f} s: {given.output}"
    )
    return 0


def _rounder(rounding: str, quantization: str, folder: ModelFolder) -> Rounder | None:
    storage = storage_by_name(quantization)
    searches = storage.bits == 4 and storage.dtype == "F16" and ROUNDERS[rounding] is None
    if not searches or folder.architecture.num_parameters < LARGE:
        return ROUNDERS[rounding]
    module, name = COMPILER.split(":")
    search: Search | None = getattr(import_module(module), name)(detect())
    return partial(quantize_closest, search=search)


def _source(given: str, folder: ModelFolder) -> Path:
    """The folder of the weights, which may be named by one of its files."""
    path = folder.path if given == "auto" else Path(given)
    return path.parent if path.is_file() else path


def _output(output: Path, folder: ModelFolder) -> Path:
    if output.exists() and not output.is_dir():
        raise BadConfig(f"{output}: is a file; --output names a folder")
    if output.is_dir() and output.resolve() == folder.path.resolve():
        raise BadConfig(f"{output}: holds the model itself; write to another folder")
    return output


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """End as by Ctrl-C, so that the scratch folder goes."""
    raise KeyboardInterrupt


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "mlc_llm convert_weight",
        "Write the weights of a Hugging Face model as an MLC folder. `mlc_llm gen_config` writes "
        "its configuration.",
    )
    add_arguments(parser, [name for name, row in STORAGES.items() if row.kind != "awq"])
    parser.add_argument(
        "--device", default="auto", help="accepted for MLC LLM's sake; the work is done on the CPU"
    )
    parser.add_argument(
        "--source", default="auto", help="folder or file of the weights; auto: the folder of CONFIG"
    )
    parser.add_argument(
        "--source-format",
        default="auto",
        choices=FILES,
        help="what to read where there is more than one format; auto: safetensors first",
    )
    parser.add_argument(
        "--rounding",
        default="closest",
        choices=ROUNDERS,
        help="of 4-bit groups: closest searches for the best scales, plain writes MLC LLM's bits",
    )
    parser.add_argument(
        "--lora-adapter", metavar="FOLDER", type=Path, help="a LoRA adapter (PEFT) to merge"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
