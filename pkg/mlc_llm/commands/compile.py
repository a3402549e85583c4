"""`mlc_llm compile`: the library of a model as a file, for `mlc_llm serve --model-lib`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from mlc_llm.arguments import ArgumentParser
from mlc_llm.commands.overrides import OVERRIDES, check_opt, check_overrides
from mlc_llm.compiler.artifact import LibrarySpec
from mlc_llm.compiler.job import Job, LinkFailed, compile_in_child
from mlc_llm.compiler.target import c_compiler, choose_device
from mlc_llm.errors import BadConfig
from mlc_llm.models.folder import open_folder
from mlc_llm.models.resolve import resolve_model
from mlc_llm.protocol.spec import KvCacheDtype
from mlc_llm.weights.load import choose_scheme


def main(argv: Sequence[str]) -> int:
    """Compile; 0 when the file is whole under its name. Raises `MLCError`."""
    given = _parser().parse_args(argv)
    check_overrides(given.overrides)
    check_opt(given.opt)
    output: Path = given.output
    if output.suffix != ".so" or output.is_dir():
        raise BadConfig(f"{output}: --output must be the name of a .so file")
    folder = open_folder(resolve_model(given.model))
    found = folder.architecture.model_type
    if given.model_type not in ("auto", found):
        raise BadConfig(f"--model-type {given.model_type} was given but {folder.path} is a {found}")
    scheme = choose_scheme(folder, given.quantization, given.kv_cache_dtype)
    device = choose_device(given.device)
    compiler = c_compiler()
    if compiler is None:
        raise BadConfig("no C compiler (cc, gcc, clang) is installed; install one")
    _check_writable(output)
    level = device.level.value
    spec = LibrarySpec(folder.architecture, scheme.name, level, scheme.kv_dtype)
    try:
        compile_in_child(Job(spec, str(output.resolve()), compiler), _progress)
    except LinkFailed as failure:
        raise BadConfig(f"{compiler[0]} cannot link a library ({failure})") from None
    print(f"wrote {output}: {scheme.name} for {device.kind} ({device.level.value})")
    return 0


def _check_writable(output: Path) -> None:
    """Raise `BadConfig` before work is done that could not be kept."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise BadConfig(f"{output}: cannot be written ({error.strerror})") from None


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
    parser.add_argument(
        "--kv-cache-dtype",
        default="auto",
        choices=get_args(KvCacheDtype),
        help="what keys and values are kept in; `mlc_llm serve` must be told the same",
    )
    parser.add_argument("--device", default="auto", help="auto or cpu")
    parser.add_argument("--model-type", default="auto", help="auto: what the configuration says")
    parser.add_argument(
        "--overrides",
        default="",
        metavar="K=V;K=V",
        help="checked for MLC LLM's sake: " + ", ".join(OVERRIDES),
    )
    parser.add_argument(
        "--opt",
        default="O2",
        help="checked for MLC LLM's sake: its presets and switches choose GPU libraries",
    )
    for flag in ("--host", "--system-lib-prefix"):
        parser.add_argument(flag, default="auto", choices=("auto",), help="only auto: this machine")
    parser.add_argument("-o", "--output", required=True, type=Path, help="the .so file")
    return parser
