"""Ask a compiled library what it is. Loads it into this process, with TVM's runtime."""

from __future__ import annotations

from pathlib import Path

import tvm

from mlc_llm.compiler.artifact import METADATA, is_intact
from mlc_llm.errors import BadModel
from mlc_llm.models.document import regular_file_size

CPU, POOLED = 1, 2


def library_metadata(path: Path) -> str:
    """`artifact.Metadata` as JSON. Raises `BadModel` for what is not a whole library of ours,
    for this kind of machine."""
    regular_file_size(path)
    if not is_intact(path):
        raise BadModel(f"{path}: is not a complete library of `mlc_llm compile`")
    try:
        library = tvm.runtime.load_module(str(path.absolute()))
    except RuntimeError as error:  # the dynamic loader's
        raise BadModel(f"{path}: was compiled for another kind of machine") from error
    machine = library["vm_load_executable"]()
    machine["vm_initialization"](CPU, 0, POOLED)
    return str(machine[METADATA]())
