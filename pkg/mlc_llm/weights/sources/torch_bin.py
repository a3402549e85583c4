"""Find the tensors of PyTorch's files: pytorch_model.bin, or the shards its index names.

A file is a zip archive (PyTorch 1.6 and later) with a pickle that says which member each tensor is
in. The pickle is read as data (`torch_program`) and executes nothing.
"""

from __future__ import annotations

import math
import os
from itertools import accumulate
from pathlib import Path

from mlc_llm.errors import BadModel
from mlc_llm.models.document import MEBIBYTE, regular_file_size
from mlc_llm.weights.archive import Member, members
from mlc_llm.weights.index import tensors_of_index
from mlc_llm.weights.source import ITEM_BITS, StoredTensor
from mlc_llm.weights.sources.torch_program import ProgramFault, TensorNote, read_program

SINGLE_NAME = "pytorch_model.bin"
INDEX_NAME = "pytorch_model.bin.index.json"
NAMES = (SINGLE_NAME, INDEX_NAME)
MAX_PROGRAM = 4 * MEBIBYTE
"""Twenty thousand tensors; each byte of it may make an object of 64."""
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of the folder's PyTorch files by name. Raises `BadModel`."""
    if os.path.lexists(folder / SINGLE_NAME):
        return tensors_of_file(folder / SINGLE_NAME)
    return tensors_of_index(folder / INDEX_NAME, tensors_of_file)


def tensors_of_file(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file; two names may be of the same bytes. Raises `BadModel`."""
    regular_file_size(path)
    _refuse_legacy(path)
    found = members(path)
    programs = [name for name in found if name.rpartition("/")[2] == "data.pkl"]
    if len(programs) != 1:
        raise BadModel(f"{path}: has no data.pkl, so it is no file of PyTorch's")
    root = programs[0].removesuffix("data.pkl")
    program = _content(path, found[programs[0]], MAX_PROGRAM)
    order = found.get(f"{root}byteorder")
    if order is not None and _content(path, order, 16) != b"little":
        raise BadModel(f"{path}: is of a big-endian machine, which is not supported")
    try:
        notes = read_program(program)
    except ProgramFault as fault:
        raise BadModel(f"{path}: {fault}") from None
    return {name: _tensor(path, name, note, root, found) for name, note in notes.items()}


def _refuse_legacy(path: Path) -> None:
    try:
        with path.open("rb") as file:
            begin = file.read(len(_LEGACY))
    except OSError as error:
        raise BadModel(f"{path}: {error.strerror}") from None
    if begin.startswith(b"\x80"):
        raise BadModel(
            f"{path}: is in the format before PyTorch 1.6; save the model as safetensors"
        )


def _content(path: Path, member: Member, limit: int) -> bytes:
    if member.size > limit:
        raise BadModel(f"{path}: a member of {member.size} bytes is more than {limit}")
    with path.open("rb") as file:
        file.seek(member.offset)
        return file.read(member.size)


def _tensor(
    path: Path, name: str, note: TensorNote, root: str, found: dict[str, Member]
) -> StoredTensor:
    storage = note.storage
    item = ITEM_BITS[storage.dtype] // 8
    member = found.get(f"{root}data/{storage.key}")
    if member is None:
        raise BadModel(f"{path}: tensor {name}: its data {storage.key!r} is not in the file")
    offset = member.offset + note.offset * item
    tensor = StoredTensor(name, path, offset, storage.dtype, note.shape)
    steps = (1, *accumulate(note.shape[:0:-1], lambda a, b: a * b))[::-1]
    if any(
        size > 1 and stride != step
        for size, stride, step in zip(note.shape, note.strides, steps, strict=False)
    ):
        raise tensor.fault("does not lie row by row; save the model as safetensors")
    if (note.offset + math.prod(note.shape)) * item > member.size:
        raise tensor.fault(f"leaves the {member.size} bytes of its data")
    return tensor
