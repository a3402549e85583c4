"""What a model is compiled for: the device asked for, and the kernels this machine can run.

Pure decisions, no compiler: the engine makes them too.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping

from msgspec import Struct

from mlc_llm.errors import BadConfig
from mlc_llm.kernels.cpu.level import Level, detect

KINDS = ("cuda", "rocm", "metal", "vulkan", "opencl", "cpu")
"""Device kinds that MLC LLM users may ask for, in the order in which `auto` prefers them."""

SUPPORTED = frozenset({"cpu"})

COMPILERS = ("cc", "gcc", "clang", "g++", "clang++", "c++")
"""Programs that can link a shared library."""


class Device(Struct, frozen=True):
    """A device that was chosen, and why."""

    kind: str
    level: Level
    reason: str


def choose_device(asked: str = "auto", environ: Mapping[str, str] = os.environ) -> Device:
    """The device for `--device asked` (`kind`, `kind:id` or `auto`).

    Raises `BadConfig` for a kind that does not exist, or that this package has no kernels for.
    """
    matched = re.fullmatch(r"([a-z]+)(?::(\d+))?", asked)
    kind = matched.group(1) if matched else asked
    if kind not in (*KINDS, "auto"):
        known = ", ".join(("auto", *KINDS))
        raise BadConfig(f"device {asked!r} is not known; use one of {known}")
    if kind != "auto" and kind not in SUPPORTED:
        raise BadConfig(
            f"there are no kernels for device {asked!r}; the device must be cpu or auto"
        )
    level = detect(environ)
    why = "asked for" if kind == "cpu" else "no other device is supported"
    return Device("cpu", level, f"{why}; vector instructions: {level.value}")


def c_compiler(environ: Mapping[str, str] = os.environ) -> tuple[str, ...] | None:
    """The command that links shared libraries, a path and its first arguments; None without one.

    $CC, which may hold arguments ("gcc -m64", "ccache gcc"), or the first compiler that is found.
    """
    try:
        asked = shlex.split(environ.get("CC", ""))
    except ValueError:  # a quote that does not end
        return None
    for name, *arguments in [asked] if asked else [[name] for name in COMPILERS]:
        if found := shutil.which(name, path=environ.get("PATH")):
            return (found, *arguments)
    return None
