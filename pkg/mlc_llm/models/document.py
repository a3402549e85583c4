"""JSON files of a model folder, read with a size limit and checked against a type.

Knows nothing of what the fields mean. Whatever is wrong becomes one `BadModel` line that names the
file and, where there is one, the key.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mlc_llm.errors import BadModel

MEBIBYTE = 1 << 20

T = TypeVar("T")


def regular_file_size(path: Path) -> int:
    """Bytes of a regular file; raises `BadModel` when it is missing or something else.

    A symbolic link is followed: the hub's own cache is a folder of links to its blobs.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise BadModel(f"{path}: {os.strerror(error.errno or 0)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise BadModel(f"{path}: is not a regular file")
    return status.st_size


def read_bytes(path: Path, limit: int) -> bytes:
    """The whole file; raises `BadModel` when it cannot be read or is larger than `limit` bytes."""
    if (size := regular_file_size(path)) > limit:
        raise BadModel(f"{path}: {size} bytes is more than this file may have ({limit})")
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise BadModel(f"{path}: {os.strerror(error.errno or 0)}") from None


def decode(content: bytes, kind: type[T], path: Path) -> T:
    """JSON as a `kind`; raises `BadModel` naming the file and the key that is wrong."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadModel(f"{path}: {error}") from None


def convert(values: Any, kind: type[T], path: Path, part: str = "") -> T:
    """Decoded JSON, all of a file or the named part, as a `kind`; raises `BadModel`."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        place = f"{path}: {part}" if part else str(path)
        raise BadModel(f"{place}: {error}") from None


def read_json(path: Path, kind: type[T], limit: int = 4 * MEBIBYTE) -> T:
    """`read_bytes`, then `decode`."""
    return decode(read_bytes(path, limit), kind, path)


def read_optional_json(path: Path, kind: type[T], limit: int = 4 * MEBIBYTE) -> T | None:
    """`read_json`, or None when there is no such file."""
    return read_json(path, kind, limit) if os.path.lexists(path) else None
