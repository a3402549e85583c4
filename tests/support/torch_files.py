"""Files as PyTorch saves them, right and wrong, put together instruction by instruction."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

STORAGES = {"F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage"}
STOP = b"."


def text(value: str) -> bytes:
    """Push a text."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """Push a number."""
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def mention(module: str, name: str) -> bytes:
    """Push a name."""
    return b"c" + f"{module}\n{name}\n".encode()


def numbers(values: tuple[int, ...]) -> bytes:
    """Push a tuple."""
    return b"(" + b"".join(map(number, values)) + b"t"


def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Those of rows one after the other."""
    return tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))


def tensor(
    key: str,
    dtype: str,
    shape: tuple[int, ...],
    *,
    offset: int = 0,
    strides: tuple[int, ...] | None = None,
    count: int | None = None,
) -> bytes:
    """Push a tensor."""
    size = int(np.prod(shape)) if count is None else count
    storage = (
        b"(" + text("storage") + mention("torch", STORAGES.get(dtype, dtype)) + text(key)
        + text("cpu") + number(size) + b"tQ"
    )  # fmt: skip
    return (
        mention("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + storage
        + number(offset)
        + numbers(shape)
        + numbers(strides_of(shape) if strides is None else strides)
        + b"\x89"
        + mention("collections", "OrderedDict")
        + b")RtR"
    )


def dictionary(items: Mapping[str, bytes]) -> bytes:
    """A whole program that builds a dictionary of what the values push."""
    filled = b"".join(text(name) + value for name, value in items.items())
    return b"\x80\x02" + mention("collections", "OrderedDict") + b")R(" + filled + b"u."


def write_archive(
    path: Path, program: bytes, data: Mapping[str, bytes], *, compressed: bool = False
) -> Path:
    """The archive of a program and its storages."""
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("pytorch_model/data.pkl", program)
        archive.writestr("pytorch_model/byteorder", b"little")
        for key, content in data.items():
            archive.writestr(f"pytorch_model/data/{key}", content)
        archive.writestr("pytorch_model/version", b"3\n")
    return path


def write(path: Path, tensors: Mapping[str, tuple[str, NDArray[np.generic]]]) -> Path:
    """A file of these tensors, given as dtype and the array whose bytes are stored."""
    program = dictionary(
        {
            name: tensor(str(i), dtype, array.shape)
            for i, (name, (dtype, array)) in enumerate(tensors.items())
        }
    )
    data = {str(i): array.tobytes() for i, (_, array) in enumerate(tensors.values())}
    return write_archive(path, program, data)
