"""A model in several GGUF files: `name-00001-of-00003.gguf` and so on, all in one folder.

The first part has the metadata of the model, every part has some of its tensors and says which of
how many it is: `split.no`, counted from 0, `split.count`, and `split.tensors.count` for all of them
together. Names say how many parts to look for, and what the headers say must agree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlc_llm.errors import BadModel
from mlc_llm.models.gguf.file import MAX_TENSORS, GgufFile, GgufTensor, read_header

MAX_PARTS = 1024
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def parts_of(file: Path) -> list[Path]:
    """All parts of the model that `file` is a part of, by name and in order; itself alone if it is
    not named so. Raises `BadModel` for a name that cannot be."""
    matched = _PART.fullmatch(file.name)
    if matched is None:
        return [file]
    number, count = int(matched[2]), int(matched[3])
    if not 1 <= number <= count <= MAX_PARTS:
        raise BadModel(f"{file}: no file is part {number} of {count}, as its name says")
    return [file] if count == 1 else [file.with_name(n) for n in names_of(matched[1], count)]


def names_of(prefix: str, count: int) -> list[str]:
    """The file names of a model in `count` parts."""
    return [f"{prefix}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def read_model(files: Sequence[Path]) -> GgufFile:
    """The metadata of the first file and the tensors of all. Raises `BadModel` for a part that is
    missing or does not belong to the others."""
    missing = [file for file in files if not file.exists()]
    if missing and len(files) > 1:
        raise BadModel(
            f"{missing[0]}: is missing; all {len(files)} parts of a model must be in one folder"
        )
    first = read_header(files[0])
    _check_part(first, 0, len(files))
    tensors = dict(first.tensors)
    for number, path in enumerate(files[1:], 1):
        part = read_header(path)
        _check_part(part, number, len(files))
        _add(tensors, part)
    expected = first.values.get("split.tensors.count")
    if len(files) > 1 and expected is not None and expected != len(tensors):
        raise BadModel(
            f"{files[0]}: split.tensors.count is {expected!r}, but there are {len(tensors)} tensors"
            f" in its {len(files)} parts"
        )
    return GgufFile(first.path, first.values, tensors)


def _check_part(part: GgufFile, number: int, count: int) -> None:
    """That its header says what its name says."""
    says = (_integer(part, "split.no", 0), _integer(part, "split.count", 1) or 1)
    if says == (number, count):
        return
    if count == 1:
        raise BadModel(
            f"{part.path}: is part {says[0] + 1} of {says[1]}; its name must say so, as in "
            f"{names_of('model', 2)[0]}, and the other parts must be beside it"
        )
    raise BadModel(
        f"{part.path}: is part {says[0] + 1} of {says[1]} and not {number + 1} of {count}"
        ", as its name says"
    )


def _integer(part: GgufFile, key: str, default: int) -> int:
    value: Any = part.values.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadModel(f"{part.path}: {key}: is of type {type(value).__name__}")
    return value


def _add(tensors: dict[str, GgufTensor], part: GgufFile) -> None:
    for tensor in part.tensors.values():
        if tensor.name in tensors:
            other = tensors[tensor.name].path
            raise BadModel(f"{part.path}: tensor {tensor.name[:256]}: is also in {other}")
        tensors[tensor.name] = tensor
    if len(tensors) > MAX_TENSORS:
        raise BadModel(f"{part.path}: its parts have more than {MAX_TENSORS} tensors")
