"""A tensor that lies in a file: where it is, how to read some of its rows.

Knows no file format; `safetensors` and `tensor_cache` find the tensors and vouch that each lies
inside its file, and `sources` make matrices of codes. Reads go into fresh buffers and never through
a mapping: a file that shrinks under us is then an error and not a bus fault, and what was read does
not count as memory of the process.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from mlc_llm.errors import BadModel
from mlc_llm.quantization.floats import widen_bfloats
from mlc_llm.quantization.group import Quantized

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

READABLE = {
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "U32": "<u4",
    "I32": "<i4",
    "U8": "u1",
    "F8_E4M3": "u1",
}
"""Element types that are read; bfloat16 and float8 arrive as their bits."""


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


class DecodedTensor(StoredTensor, frozen=True):
    """A matrix of float32 that is computed from what lies in files; `path` holds its codes."""

    rows: Callable[[int, int], NDArray[np.float32]]
    """Gives rows first..last - 1."""
    groups: Callable[[int, int], Quantized] | None = None
    """Gives the same rows as groups of 32 where that is exactly what the codes stand for."""
    group_bits: int = 0
    """Bits of the codes in those groups: 4 (q4f16_1) or 8 (q8f16_1)."""


def decoded(
    like: StoredTensor, name: str, shape: tuple[int, ...], rows: Callable[[int, int], Any]
) -> DecodedTensor:
    """A matrix of this name whose codes are the tensor `like`."""
    return DecodedTensor(name, like.path, like.offset, "F32", shape, rows)


def read_rows(tensor: StoredTensor, first: int, last: int) -> NDArray[Any]:
    """Rows first..last - 1 along the first axis, in the type `READABLE` gives."""
    if isinstance(tensor, DecodedTensor):
        return tensor.rows(first, last)
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
    if isinstance(tensor, DecodedTensor):
        return np.ascontiguousarray(tensor.rows(0, rows)[:, first:last].T)
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


def read_floats(
    tensor: StoredTensor, first: int, last: int, columns: bool = False
) -> NDArray[np.float32]:
    """Rows, or columns as rows, as float32; raises `BadModel` for what is not finite."""
    found = (read_columns if columns else read_rows)(tensor, first, last)
    if tensor.dtype == "BF16":
        values = widen_bfloats(found)
    else:
        values = found.astype(np.float32)
    if not np.isfinite(values).all():
        raise tensor.fault("holds a value that is not finite")
    return values


def rows_of(tensor: StoredTensor, first: int, last: int) -> StoredTensor:
    """Rows first..last - 1 as a tensor of their own."""
    if isinstance(tensor, DecodedTensor):
        read, shape = tensor.rows, (last - first, *tensor.shape[1:])
        return decoded(tensor, tensor.name, shape, lambda a, b: read(first + a, first + b))
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
