"""Where the members of a zip archive lie that are not compressed. Reads the directory at its end.

Only what PyTorch writes is read: no compression, no encryption, one disk; sizes in 64 bits where
they need them. Every number is checked against the file, and the directory is bounded.

    members ..., directory (an entry for each), [64-bit end record, its locator], end record
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mlc_llm.errors import BadModel
from mlc_llm.models.document import MEBIBYTE, regular_file_size

MAX_DIRECTORY = 64 * MEBIBYTE
MAX_COMMENT = 1 << 16

_END = struct.Struct("<4sHHHHIIH")
_LOCATOR = struct.Struct("<4sIQI")
_END_64 = struct.Struct("<4sQHHIIQQQQ")
_ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_WIDE = 0xFFFFFFFF
"""Stands for a number that is in the 64-bit fields."""


class Member(NamedTuple):
    """The bytes of a member."""

    offset: int
    size: int


class _Entry(NamedTuple):
    name: str
    header: int
    size: int


def members(path: Path) -> dict[str, Member]:
    """All members by name; raises `BadModel`."""
    size = regular_file_size(path)
    try:
        with path.open("rb") as file:
            start, length = _directory(path, file, size)
            file.seek(start)
            found: dict[str, Member] = {}
            for entry in _entries(path, file.read(length)):
                if entry.name in found:
                    raise BadModel(f"{path}: member {entry.name!r} appears twice")
                found[entry.name] = _placed(path, file, entry, size)
            return found
    except OSError as error:
        raise BadModel(f"{path}: {os.strerror(error.errno or 0)}") from None


def _directory(path: Path, file: BinaryIO, size: int) -> tuple[int, int]:
    """Where the directory starts and how long it is."""
    tail_start = max(0, size - MAX_COMMENT - _END.size)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        raise BadModel(f"{path}: is cut off, or no zip archive")
    *_, length, start, _ = _END.unpack_from(tail, at)
    if _WIDE in (length, start):
        length, start = _wide_directory(path, file, tail_start + at)
    if length > MAX_DIRECTORY or start + length > size:
        raise BadModel(f"{path}: a directory of {length} bytes at {start} cannot be")
    return start, length


def _wide_directory(path: Path, file: BinaryIO, end: int) -> tuple[int, int]:
    fault = BadModel(f"{path}: its 64-bit end record is damaged")
    if end < _LOCATOR.size:
        raise fault
    file.seek(end - _LOCATOR.size)
    magic, _, at, _ = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if magic != b"PK\6\7" or at + _END_64.size > end:
        raise fault
    file.seek(at)
    magic, *_, length, start = _END_64.unpack(file.read(_END_64.size))
    if magic != b"PK\6\6":
        raise fault
    return length, start


def _entries(path: Path, directory: bytes) -> list[_Entry]:
    found, at = [], 0
    while at < len(directory):
        if at + _ENTRY.size > len(directory):
            raise BadModel(f"{path}: its directory is cut off")
        fields = _ENTRY.unpack_from(directory, at)
        magic, flags, method = fields[0], fields[3], fields[4]
        packed, size, names, extra, comment = fields[8:13]
        header = fields[16]
        at += _ENTRY.size
        name = directory[at : at + names].decode("utf-8", "replace")
        if magic != b"PK\1\2" or at + names + extra + comment > len(directory):
            raise BadModel(f"{path}: its directory is damaged")
        if method != 0 or flags & 1:
            raise BadModel(f"{path}: member {name!r} is compressed or encrypted")
        if _WIDE in (packed, size, header):
            more = directory[at + names : at + names + extra]
            packed, size, header = _wide(path, name, more, (size, packed, header))
        if packed != size:
            raise BadModel(f"{path}: member {name!r} has two sizes")
        found.append(_Entry(name, header, size))
        at += names + extra + comment
    return found


def _wide(
    path: Path, name: str, extra: bytes, narrow: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Size packed, size, offset of the header: those that do not fit are in the extra field 1."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            numbers = iter(
                struct.unpack_from(f"<{min(length, len(extra) - at - 4) // 8}Q", extra, at + 4)
            )
            wide = [next(numbers, _WIDE) if value == _WIDE else value for value in narrow]
            return wide[1], wide[0], wide[2]
        at += 4 + length
    raise BadModel(f"{path}: member {name!r} has no 64-bit sizes")


def _placed(path: Path, file: BinaryIO, entry: _Entry, size: int) -> Member:
    fault = BadModel(f"{path}: member {entry.name!r} leaves the file")
    if entry.header + _LOCAL.size > size:
        raise fault
    file.seek(entry.header)
    fields = _LOCAL.unpack(file.read(_LOCAL.size))
    offset = entry.header + _LOCAL.size + fields[9] + fields[10]
    if fields[0] != b"PK\3\4" or offset + entry.size > size:
        raise fault
    return Member(offset, entry.size)
