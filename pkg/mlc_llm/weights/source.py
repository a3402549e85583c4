"""A tensor that lies in a file: where it is, how to read some of its rows.

Knows no file format; `safetensors` and `tensor_cache` find the tensors and vouch that each lies
inside its file. Reads go into fresh buffers and never through a mapping: a file that shrinks under
us is then an error and not a bus fault, and what was read does not count as memory of the process.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from mlc_llm.errors import BadModel

ITEM_BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U64": 64,
    "U32": 32,
    "U16": 16,
    "U8": 8,
    "BOOL": 8,
}
"""Element types that may lie in a file, whether or not a weight can be made of them."""

READABLE = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U32": "<u4"}
"""Element types that weights are read from; bfloat16 arrives as its bits."""


class StoredTensor(Struct, frozen=True):
    """A row-major little-endian tensor in a file."""

    name: str
    path: Path
    offset: int
    dtype: str
    """A key of `ITEM_BITS`."""
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes it takes in the file."""
        return math.prod(self.shape) * ITEM_BITS[self.dtype] // 8

    def fault(self, message: str) -> BadModel:
        """The error that says what is wrong with this tensor."""
        return BadModel(f"{self.path}: tensor {self.name}: {message}")


def read_rows(tensor: StoredTensor, first: int, last: int) -> NDArray[Any]:
    """Rows first..last - 1 along the first axis, in the type `READABLE` gives."""
    dtype = np.dtype(READABLE[tensor.dtype])
    rows = np.empty((last - first, *tensor.shape[1:]), dtype)
    row_bytes = math.prod(tensor.shape[1:]) * dtype.itemsize
    view = rows.reshape(-1).view(np.uint8).data
    try:
        with tensor.path.open("rb", buffering=0) as file:
            file.seek(tensor.offset + first * row_bytes)
            while len(view) and (count := file.readinto(view)):
                view = view[count:]
    except OSError as error:
        raise tensor.fault(os.strerror(error.errno or 0)) from None
    if len(view):
        raise tensor.fault("the file ended while it was read")
    return rows


def read_columns(tensor: StoredTensor, first: int, last: int) -> NDArray[Any]:
    """Columns first..last - 1 of a matrix as rows [last - first, rows of the file], contiguous."""
    rows, cols = tensor.shape
    dtype = np.dtype(READABLE[tensor.dtype])
    found = np.empty((rows, last - first), dtype)
    try:
        with tensor.path.open("rb", buffering=0) as file:
            for row, part in enumerate(found):
                view = part.view(np.uint8).data
                place = tensor.offset + (row * cols + first) * dtype.itemsize
                if os.preadv(file.fileno(), [view], place) != len(view):
                    raise tensor.fault("the file ended while it was read")
    except OSError as error:
        raise tensor.fault(os.strerror(error.errno or 0)) from None
    return np.ascontiguousarray(found.T)


def rows_of(tensor: StoredTensor, first: int, last: int) -> StoredTensor:
    """Rows first..last - 1 as a tensor of their own."""
    row_bytes = math.prod(tensor.shape[1:]) * ITEM_BITS[tensor.dtype] // 8
    return StoredTensor(
        tensor.name,
        tensor.path,
        tensor.offset + first * row_bytes,
        tensor.dtype,
        (last - first, *tensor.shape[1:]),
    )


def refuse_overlaps(tensors: Iterable[StoredTensor]) -> None:
    """Raise `BadModel` when two tensors of one file share a byte."""
    filled = sorted((t for t in tensors if t.nbytes), key=lambda t: (t.path, t.offset))
    for before, after in pairwise(filled):
        if before.path == after.path and before.offset + before.nbytes > after.offset:
            raise after.fault(f"overlaps tensor {before.name}")


def is_plain_name(name: str) -> bool:
    """Whether a file name from an index stays in its own folder."""
    return name not in ("", ".", "..") and not any(c in name for c in "/\\\0:")
