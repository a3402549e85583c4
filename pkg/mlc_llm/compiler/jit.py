"""The compiled library of a model: from the cache, or compiled now and kept there.

    $MLC_LLM_HOME/model_lib/<key>.so      a sealed library (`artifact`), written whole or not at all
    $MLC_LLM_HOME/model_lib/<key>.lock    held while it is made: many processes, one compiler

The key is a digest of everything that changes the library: the model's architecture, the
quantization, what K and V are kept in, the CPU level, this package's code and TVM's version.
Nothing else does: no other option of the server recompiles. A library that is damaged is made
again; those used last are kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from mlc_llm.compiler.artifact import LibrarySpec, is_intact, metadata_of
from mlc_llm.compiler.job import CHILD, Job, LinkFailed, Progress, compile_in_child
from mlc_llm.compiler.target import c_compiler
from mlc_llm.errors import BadConfig
from mlc_llm.home import model_lib

COMPILE_IN_MEMORY = "mlc_llm.compiler.build:compile_in_memory"
POLICY_VARIABLE = "MLC_JIT_POLICY"

MAX_LIBRARIES = 64
"""Libraries that the cache keeps, a few MiB each."""

Policy = Literal["ON", "OFF", "REDO", "READONLY"]


class Compiled(NamedTuple):
    """A compiled model: a file to load, or a module that lives in this process only."""

    path: Path | None
    module: Any
    note: str
    """What was done and why, in a sentence for the log."""


def ensure_library(
    spec: LibrarySpec,
    progress: Progress,
    *,
    folder: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    command: Sequence[str] = CHILD,
) -> Compiled:
    """The library of `spec`, compiled if need be; `command` is the compiling child.

    MLC_JIT_POLICY is ON, REDO (compile even what is cached), READONLY (take only what is cached) or
    OFF (neither). Raises `BadConfig` when the policy forbids what is needed, `BadModel` when the
    model does not compile. Without a working C compiler or a writable cache folder the model is
    compiled in this process.
    """
    chosen = policy(environ)
    path = (folder or model_lib()) / f"{cache_key(spec)}.so"
    if chosen == "OFF":
        raise BadConfig(f"{POLICY_VARIABLE}=OFF forbids compiling; pass --model-lib")
    if chosen != "REDO" and is_intact(path):
        _note_use(path)
        return Compiled(path, None, f"using the compiled model {path}")
    if chosen == "READONLY":
        raise BadConfig(
            f"{POLICY_VARIABLE}=READONLY and the model is not compiled yet; unset it once"
        )
    compiler = c_compiler(environ)
    if compiler is None:
        asked = environ.get("CC", "").strip()
        why = (
            f"CC={asked} names no program"
            if asked
            else "no C compiler (cc, gcc, clang) is installed"
        )
        return _in_memory(spec, progress, why)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock"), progress):
            if chosen != "REDO" and is_intact(path):
                return Compiled(path, None, f"using {path}, which another process compiled")
            compile_in_child(Job(spec, str(path), compiler), progress, command)
            _prune(path.parent)
    except LinkFailed as failure:
        return _in_memory(spec, progress, f"{compiler[0]} cannot link a library ({failure})")
    except OSError as failure:
        return _in_memory(spec, progress, f"{path.parent} cannot be written ({failure.strerror})")
    return Compiled(path, None, f"compiled the model and kept it as {path}")


def policy(environ: Mapping[str, str]) -> Policy:
    """The policy of MLC_JIT_POLICY; raises `BadConfig` for an unknown word."""
    asked = environ.get(POLICY_VARIABLE, "ON")
    try:
        chosen: Policy = msgspec.convert(asked, Policy)
    except msgspec.ValidationError:
        raise BadConfig(f"{POLICY_VARIABLE}={asked} is not ON, OFF, REDO or READONLY") from None
    return chosen


def cache_key(spec: LibrarySpec) -> str:
    """Digest of all that the library depends on."""
    return hashlib.sha256(msgspec.json.encode(metadata_of(spec), order="sorted")).hexdigest()[:32]


def _note_use(path: Path) -> None:
    """The time a library was last wanted, by which the cache is pruned."""
    with suppress(OSError):  # the cache may be another user's
        os.utime(path)


def _prune(folder: Path) -> None:
    """Forget the libraries not wanted for longest; who has one loaded keeps what is loaded."""
    with suppress(OSError):  # another process prunes as well: there is nothing left to do
        libraries = sorted(folder.glob("*.so"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in libraries[MAX_LIBRARIES:]:
            path.unlink()
            path.with_suffix(".lock").unlink(missing_ok=True)


def _in_memory(spec: LibrarySpec, progress: Progress, why: str) -> Compiled:
    """Compile here: the module cannot be handed from one process to another."""
    module, _, name = COMPILE_IN_MEMORY.partition(":")
    compile_here = getattr(import_module(module), name)
    loaded = compile_here(spec, lambda message, done: progress("compile", message, done))
    return Compiled(None, loaded, f"compiled in memory, nothing was cached: {why}")


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock file. A holder that is killed lets go."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("compile", "another process is compiling this model", None)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
