"""`mlc_llm compile`: the library of a model as a file, for `mlc_llm serve --model-lib`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mlc_llm.arguments import ArgumentParser
from mlc_llm.compiler.artifact import LibrarySpec
from mlc_llm.compiler.job import Job, LinkFailed, compile_in_child
from mlc_llm.compiler.target import c_compiler, choose_device
from mlc_llm.errors import BadConfig
from mlc_llm.models.folder import open_folder
from mlc_llm.models.resolve import resolve_model
from mlc_llm.weights.load import choose_scheme

PRESETS = ("O0", "O1", "O2", "O3")


def main(argv: Sequence[str]) -> int:
    """Compile; 0 when the file is whole under its name. Raises `MLCError`."""
    given = _parser().parse_args(argv)
    output: Path = given.output
    if output.suffix != ".so" or output.is_dir():
        raise BadConfig(f"{output}: --output must be the name of a .so file")
    folder = open_folder(resolve_model(given.model))
    scheme = choose_scheme(folder, given.quantization)
    device = choose_device(given.device)
    compiler = c_compiler()
    if compiler is None:
        raise BadConfig("no C compiler (cc, gcc, clang) is installed; install one")
    spec = LibrarySpec(folder.architecture, scheme.name, device.level.value)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        compile_in_child(Job(spec, str(output.resolve()), compiler), _progress)
    except LinkFailed as failure:
        raise BadConfig(f"{compiler} cannot link a library ({failure})") from None
    except OSError as error:
        raise BadConfig(f"{output}: cannot be written ({error.strerror})") from None
    print(f"wrote {output}: {scheme.name} for {device.kind} ({device.level.value})")
    return 0


def _progress(stage: str, message: str, done: float | None) -> None:
    share = "" if done is None else f" {done:4.0%}"
    print(f"{stage}{share}  {message}", file=sys.stderr)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "mlc_llm compile",
        "Compile a model into a library. `mlc_llm serve` does so by itself when none is given.",
        "Sizes are not compiled in: a library serves every context window and batch.",
    )
    parser.add_argument("model", metavar="MODEL", help="model folder, its configuration, or a name")
    parser.add_argument("--quantization", help="how weights are computed with")
    parser.add_argument("--device", default="auto", help="auto or cpu")
    parser.add_argument(
        "--opt",
        default="O2",
        choices=PRESETS,
        help="accepted for MLC LLM's sake: its presets choose GPU libraries",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="the .so file")
    return parser
