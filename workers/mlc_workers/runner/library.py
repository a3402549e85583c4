"""Load a compiled model without the compiler: 10 MB of runtime in place of 260 MB.

Nothing here imports `tvm`. The runtime reads its thread settings from the environment when the
first kernel runs, so they are set before the library is loaded.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tvm_ffi

from mlc_llm.compiler.abi import STEP
from mlc_llm.compiler.artifact import METADATA, is_intact
from mlc_llm.compiler.jit import Compiled
from mlc_llm.compiler.search import search_of
from mlc_llm.errors import BadConfig, BadModel
from mlc_llm.models.document import regular_file_size
from mlc_workers.runner.cores import THREADS_VARIABLE, asked_threads, usable_cores

RUNTIME = "libtvm_runtime.so"
SPIN_COUNT = "2000"
"""Times a thread without work yields before it sleeps: about a millisecond. A step has a hundred
parallel regions with microseconds between them; threads that slept in each halve the speed of
decoding, and TVM's own 300,000 take cores from the web process."""

CPU, POOLED = 1, 2
"""DLPack's device type, and the allocator that keeps memory between steps."""


class Library:
    """A compiled model: `step` to call from one thread only, `metadata` as JSON."""

    def __init__(self, module: Any) -> None:
        self._machine = module["vm_load_executable"]()
        self._machine["vm_initialization"](CPU, 0, POOLED)
        self.step = self._machine[STEP]
        self.search = search_of(module)
        """Finds the scales of 4-bit groups; None where the library has no such kernel."""

    @property
    def threads(self) -> int:
        """Threads that kernels use."""
        return asked_threads() or usable_cores()

    @property
    def metadata(self) -> str:
        return str(self._machine[METADATA]())

    def watch(self, callback: Callable[..., int] | None) -> None:
        """Call `callback(function, name, before, result, *args)` around every kernel (None: no
        more); it returns 0. For measurements."""
        self._machine["set_instrument"](callback)


def load_library(path: Path, threads: int | None = None) -> Library:
    """The library at `path`, whose kernels will use `threads` threads (None: see `use_threads`).

    Raises `BadModel` when the file is not a whole library of ours for this kind of machine,
    `BadConfig` without a runtime.
    """
    regular_file_size(path)
    if not is_intact(path):
        raise BadModel(
            f"{path} is not a complete model library of this version; leave --model-lib out and "
            "one is compiled"
        )
    use_threads(threads)
    load_runtime()
    try:
        module = tvm_ffi.load_module(str(path.absolute()))
    except RuntimeError as error:  # the dynamic loader's
        raise BadModel(
            f"{path} cannot be loaded here: it was compiled for another kind of machine; "
            "compile it again or leave --model-lib out"
        ) from error
    return Library(module)


def open_library(compiled: Compiled, threads: int | None = None) -> Library:
    """What the compiler made: a file to load, or a module that is already in this process."""
    if compiled.path is not None:
        return load_library(compiled.path, threads)
    use_threads(threads)
    return Library(compiled.module)


def load_runtime() -> None:
    """Make TVM's runtime known to this process; repeating it is harmless."""
    package = importlib.util.find_spec("tvm")
    if package is None or package.origin is None:
        raise BadConfig("TVM is not installed; install the package apache-tvm")
    ctypes.CDLL(str(Path(package.origin).parent / "lib" / RUNTIME), ctypes.RTLD_GLOBAL)


def use_threads(threads: int | None) -> int:
    """Settle how many threads kernels use. Works until the first kernel has run.

    None: what TVM_NUM_THREADS asks for, or the physical cores there are. TVM would take half of the
    processors, and pin this thread to one of them. Raises `BadConfig` as `asked_threads` does.
    """
    count = (asked_threads() or usable_cores()) if threads is None else threads
    os.environ[THREADS_VARIABLE] = str(count)
    os.environ["TVM_BIND_THREADS"] = "0"
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", SPIN_COUNT)
    return count
