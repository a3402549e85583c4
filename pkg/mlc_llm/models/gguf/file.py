"""The header of a GGUF file: its metadata and where its tensors lie. Knows no model.

    "GGUF" | version u32 | number of tensors u64 | number of pairs u64
    pairs:    key string | type u32 | value            string: length u64 | UTF-8
    tensors:  name string | axes u32 | sizes u64 .. | type u32 | offset u64
    data:     starts at the next multiple of general.alignment; offsets count from there

Everything is little-endian, and sizes are listed with the one that varies fastest first. Nothing is
trusted: every length is compared with what is left of the file before it is used, and anything
wrong is one `BadModel` line naming the file and the key or tensor.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from msgspec import Struct

from mlc_llm.errors import BadModel
from mlc_llm.models.document import MEBIBYTE, regular_file_size

MAGIC = b"GGUF"
VERSIONS = (2, 3)
HEADER_LIMIT = 64 * MEBIBYTE
"""Four times that of a vocabulary of 256k; a text of two bytes may take ten times its place."""
MAX_TENSORS = 1 << 16
MAX_PAIRS = 1 << 16
MAX_ELEMENTS = 1 << 22
"""Of one array: vocabularies and merges have fewer."""
MAX_AXES = 4

_NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?"} | {
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_FLOAT32, _STRING, _ARRAY = 6, 8, 9


class BlockType(Struct, frozen=True):
    """How a tensor type stores values: `size` of them in each block of `nbytes`."""

    name: str
    size: int
    nbytes: int


TYPES = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24),
    8: BlockType("Q8_0", 32, 34),
    10: BlockType("Q2_K", 256, 84),
    11: BlockType("Q3_K", 256, 110),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    20: BlockType("IQ4_NL", 32, 18),
    23: BlockType("IQ4_XS", 256, 136),
    30: BlockType("BF16", 1, 2),
}
"""The types that are read, by their numbers."""

UNREAD = {9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S"} | {
    21: "IQ3_S",
    22: "IQ2_S",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
    42: "Q2_0",
}
"""Names of types that are not."""


class GgufTensor(Struct, frozen=True):
    """A tensor of a file."""

    name: str
    shape: tuple[int, ...]
    """Row-major, as everywhere else in this package."""
    kind: BlockType
    path: Path
    offset: int
    """From the beginning of the file."""

    @property
    def nbytes(self) -> int:
        """Bytes it takes in the file."""
        return math.prod(self.shape) // self.kind.size * self.kind.nbytes


class GgufFile(Struct, frozen=True):
    """The header of a file, or of all files of a model."""

    path: Path
    values: dict[str, Any]
    """Numbers, booleans, strings, lists of strings, and NumPy arrays of numbers."""
    tensors: dict[str, GgufTensor]


def read_header(path: Path) -> GgufFile:
    """Everything but the weights. Raises `BadModel`."""
    size = regular_file_size(path)
    try:
        with path.open("rb") as file:
            return _read(path, _Cursor(path, file, size), size)
    except OSError as error:
        raise BadModel(f"{path}: {error.strerror}") from None


class _Cursor:
    """Reads a header from its beginning; raises `BadModel` before it would leave the file."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path = path
        self._file = file
        self._left = min(size, HEADER_LIMIT)
        self._short = size <= HEADER_LIMIT
        self.position = 0
        self.place = "header"

    def fault(self, message: str) -> BadModel:
        return BadModel(f"{self.path}: {self.place}: {message}")

    def take(self, count: int) -> bytes:
        if count > self._left:
            past = "the file ends within it" if self._short else f"is beyond {HEADER_LIMIT} bytes"
            raise self.fault(past)
        found = self._file.read(count)
        if len(found) != count:
            raise self.fault("the file ended while it was read")
        self._left -= count
        self.position += count
        return found

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def count(self, what: str, most: int) -> int:
        found = self.u64()
        if found > most:
            raise self.fault(f"{found} {what} are more than {most}")
        return found

    def string(self) -> str:
        found = self.take(self.u64())
        try:
            return found.decode()
        except UnicodeDecodeError:
            raise self.fault("is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        number = self.numbers(kind, 1)[0]
        if kind == _FLOAT32:
            return float(str(number))  # 1e-06, and not what float64 makes of its bits
        return number.item()

    def numbers(self, kind: int, count: int) -> Any:
        if kind not in _NUMBERS:
            raise self.fault(f"has values of the unknown type {kind}")
        dtype = np.dtype(_NUMBERS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)

    def _array(self) -> Any:
        kind = self.u32()
        count = self.count("elements", MAX_ELEMENTS)
        if kind == _ARRAY:
            raise self.fault("is an array of arrays")
        if kind == _STRING:
            return [self.string() for _ in range(count)]
        return self.numbers(kind, count)


def _read(path: Path, cursor: _Cursor, size: int) -> GgufFile:
    if cursor.take(4) != MAGIC:
        raise BadModel(f"{path}: is not a GGUF file")
    version = cursor.u32()
    if version not in VERSIONS:
        if int.from_bytes(struct.pack(">I", version), "little") in VERSIONS:
            raise BadModel(f"{path}: is a big-endian GGUF file, which is not supported")
        raise BadModel(f"{path}: GGUF version {version} is not supported; use one of {VERSIONS}")
    num_tensors = cursor.count("tensors", MAX_TENSORS)
    values = _pairs(cursor, cursor.count("metadata pairs", MAX_PAIRS))
    entries = [_entry(cursor) for _ in range(num_tensors)]
    alignment = values.get("general.alignment", 32)
    if (
        not isinstance(alignment, int)
        or not 1 <= alignment <= MEBIBYTE
        or alignment.bit_count() > 1
    ):
        raise BadModel(
            f"{path}: general.alignment {str(alignment)[:64]} is not a power of two below 1 MiB"
        )
    start = -(-cursor.position // alignment) * alignment
    return GgufFile(path, values, _placed(path, entries, start, alignment, size))


def _pairs(cursor: _Cursor, count: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for _ in range(count):
        cursor.place = "header"
        key = cursor.string()
        cursor.place = key[:256]
        if key in values:
            raise cursor.fault("appears twice")
        values[key] = cursor.value(cursor.u32())
    cursor.place = "header"
    return values


def _entry(cursor: _Cursor) -> GgufTensor:
    """A tensor whose offset still counts from the start of the data."""
    cursor.place = "header"
    name = cursor.string()
    cursor.place = f"tensor {name[:256]}"
    axes = cursor.u32()
    if not 1 <= axes <= MAX_AXES:
        raise cursor.fault(f"has {axes} axes where 1 to {MAX_AXES} may be")
    sizes = [cursor.u64() for _ in range(axes)]
    kind = cursor.u32()
    if kind not in TYPES:
        named = UNREAD.get(kind, f"number {kind}")
        known = ", ".join(known.name for known in TYPES.values())
        raise cursor.fault(
            f"has type {named}, which is not supported; take a file of the model with types among"
            f" {known}"
        )
    if 0 in sizes:
        raise cursor.fault(f"has the shape {sizes[::-1]}, which is empty")
    if math.prod(sizes) >= 1 << 48 or max(sizes) >= 1 << 48:
        raise cursor.fault(f"has the shape {sizes[::-1]}, which no file can hold")
    if sizes[0] % TYPES[kind].size:
        raise cursor.fault(f"has rows of {sizes[0]} values, not a multiple of {TYPES[kind].size}")
    return GgufTensor(name, tuple(reversed(sizes)), TYPES[kind], cursor.path, cursor.u64())


def _placed(
    path: Path, entries: list[GgufTensor], start: int, alignment: int, size: int
) -> dict[str, GgufTensor]:
    found: dict[str, GgufTensor] = {}
    for entry in entries:
        place = f"{path}: tensor {entry.name[:256]}"
        if entry.name in found:
            raise BadModel(f"{place}: appears twice")
        if entry.offset % alignment:
            raise BadModel(f"{place}: offset {entry.offset} is not a multiple of {alignment}")
        if (offset := start + entry.offset) + entry.nbytes > size:
            raise BadModel(
                f"{place}: {entry.nbytes} bytes at {offset} leave the {size} of the file"
            )
        found[entry.name] = msgspec.structs.replace(entry, offset=offset)
    return found
