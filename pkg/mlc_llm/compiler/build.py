"""Compile a model with TVM, to a library file or into memory. Nobody else runs the compiler."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import tvm
from tvm import relax

from mlc_llm.compiler.abi import SEARCH
from mlc_llm.compiler.artifact import METADATA, LibrarySpec, metadata_of, seal
from mlc_llm.compiler.search import search_of
from mlc_llm.kernels.cpu.closest import can_search, closest
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.lowering import compile_module
from mlc_llm.models.decoder import build_step
from mlc_llm.quantization.search import Search

Progress = Callable[[str, float], None]
"""Called with a message and how much is done, from 0 to 1."""


class LinkError(Exception):
    """No shared library could be made, or kept."""


def compile_model(spec: LibrarySpec, progress: Progress) -> tvm.runtime.Executable:
    """The executable of a model, its `_metadata` included."""
    progress("describing the model", 0.05)
    level = Level(spec.level)
    module = build_step(spec.architecture, spec.scheme, level)
    _add_metadata(module, spec)
    if spec.scheme.weights == "q4" and can_search(level):
        module[SEARCH] = _search()
    progress("compiling kernels", 0.15)
    return compile_module(module, level)


def compile_to_file(
    spec: LibrarySpec, path: Path, compiler: Sequence[str], progress: Progress
) -> None:
    """Write the sealed library of a model to `path`; `compiler` is the command that links it.

    The file appears under its name complete or not at all. Raises `LinkError` when it cannot be
    linked or written.
    """
    executable = compile_model(spec, progress)
    progress("linking", 0.9)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp.so")
    try:
        executable.export_library(str(scratch), fcompile=_linker(compiler))
        seal(scratch)
        scratch.replace(path)
    except (RuntimeError, OSError) as error:  # of TVM and the compiler, or of a full disk
        raise LinkError(str(error)) from error
    finally:
        with suppress(OSError):  # what cannot be removed could not be written either
            scratch.unlink()
    progress("compiled", 1.0)


def compile_search(level: Level) -> Search | None:
    """The search for scales of 4-bit groups, for this process only; None where the level has
    none.
    """
    if not can_search(level):
        return None
    return search_of(compile_module(tvm.IRModule({SEARCH: _search()}), level).jit())


def _search() -> tvm.ir.BaseFunc:
    return closest().with_attr("global_symbol", SEARCH)


def _linker(compiler: Sequence[str]) -> Callable[..., None]:
    """What `export_library` calls with its objects; TVM's own takes a compiler of one word only."""

    def link(output: str, objects: Sequence[str], options: Sequence[str] = ()) -> None:
        command = [*compiler, "-shared", "-fPIC", "-o", output, *objects, *options]
        ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if ran.returncode:
            lines = ran.stdout.decode(errors="replace").strip().splitlines()
            # gcc's own last word says only that the linker failed; the linker has said why
            words = [line for line in lines if not line.startswith("collect2:")]
            raise RuntimeError("\n".join(words) or f"{compiler[0]} ended with {ran.returncode}")
        if not Path(output).is_file():
            raise RuntimeError(f"{compiler[0]} made no library")

    return link


def compile_in_memory(spec: LibrarySpec, progress: Progress) -> Any:
    """The loaded module of a model, for this process only."""
    module = compile_model(spec, progress).jit()
    progress("compiled", 1.0)
    return module


def _add_metadata(module: tvm.IRModule, spec: LibrarySpec) -> None:
    text = msgspec.json.encode(metadata_of(spec)).decode()
    builder = relax.BlockBuilder()
    with builder.function(METADATA, []):
        builder.emit_func_output(tvm.ir.StringImm(text))
    module[METADATA] = builder.finalize()[METADATA]
