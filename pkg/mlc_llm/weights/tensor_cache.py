"""Find the tensors of an MLC folder: tensor-cache.json (older: ndarray-cache.json) and its shards.

Only the manifest is read here, and the shards when their checksums are verified. Nothing in it is
trusted: anything wrong is one `BadModel` line naming the file and the tensor.

A record of dtype float32 with format "f32-to-bf16" holds the upper halves of its floats; records of
any other dtype are raw whatever their format says.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from mlc_llm.errors import BadModel
from mlc_llm.models.document import MEBIBYTE, read_json, regular_file_size
from mlc_llm.models.folder import MANIFEST_NAMES
from mlc_llm.weights.source import StoredTensor, is_plain_name, refuse_overlaps

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]

DTYPES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "int32": "I32",
    "int8": "I8",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
"""The manifest's names of element types and ours."""


class Record(Struct, frozen=True, rename="camel"):
    """One tensor of a shard."""

    name: str
    shape: Annotated[list[Count], Meta(max_length=8)]
    dtype: str
    format: str
    nbytes: Count
    byte_offset: Count


class Shard(Struct, frozen=True, rename="camel"):
    """One file of raw tensor bytes."""

    data_path: str
    format: str
    nbytes: Count
    records: list[Record]
    md5sum: str | None = None


class Manifest(Struct, frozen=True):
    """The whole document."""

    records: list[Shard]


def find_tensors(folder: Path, *, verify: bool, threads: int) -> dict[str, StoredTensor]:
    """All tensors of the folder by name; `verify` compares every shard with its checksum."""
    manifest_path = _manifest_path(folder)
    shards = read_json(manifest_path, Manifest, 64 * MEBIBYTE).records
    found: dict[str, StoredTensor] = {}
    for shard in shards:
        _check_shard(manifest_path, shard)
        for record in shard.records:
            tensor = _tensor(folder / shard.data_path, record, shard.nbytes)
            if record.name in found:
                raise tensor.fault("appears twice")
            found[record.name] = tensor
    refuse_overlaps(found.values())
    if verify:
        _verify(folder, shards, threads)
    return found


def _manifest_path(folder: Path) -> Path:
    for name in MANIFEST_NAMES:
        if (folder / name).exists():
            return folder / name
    raise BadModel(f"{folder}: has no {' or '.join(MANIFEST_NAMES)} that lists its weights")


def _check_shard(manifest_path: Path, shard: Shard) -> None:
    if not is_plain_name(shard.data_path):
        raise BadModel(
            f"{manifest_path}: shard {shard.data_path!r} is not a file name of this folder"
        )
    path = manifest_path.parent / shard.data_path
    if shard.format != "raw-shard":
        raise BadModel(f"{path}: shard format {shard.format!r} is not raw-shard")
    if (size := regular_file_size(path)) != shard.nbytes:
        raise BadModel(f"{path}: has {size} bytes where its manifest says {shard.nbytes}")


def _tensor(path: Path, record: Record, available: int) -> StoredTensor:
    dtype = DTYPES.get(record.dtype)
    if dtype is None:
        raise BadModel(f"{path}: tensor {record.name}: unknown dtype {record.dtype!r}")
    if record.format not in ("raw", "f32-to-bf16"):
        raise BadModel(f"{path}: tensor {record.name}: unknown format {record.format!r}")
    if dtype == "F32" and record.format == "f32-to-bf16":
        dtype = "BF16"
    tensor = StoredTensor(record.name, path, record.byte_offset, dtype, tuple(record.shape))
    if record.byte_offset + record.nbytes > available:
        raise tensor.fault(f"leaves the {available} bytes of its shard")
    if tensor.nbytes != record.nbytes:
        raise tensor.fault(
            f"shape {record.shape} of {record.dtype} does not fill its {record.nbytes} bytes"
        )
    return tensor


def _verify(folder: Path, shards: Iterable[Shard], threads: int) -> None:
    """Raise `BadModel` for the first shard whose MD5 is not its manifest's."""
    summed = {folder / shard.data_path: shard.md5sum for shard in shards if shard.md5sum}
    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        for (path, expected), found in zip(summed.items(), pool.map(_md5, summed), strict=True):
            if found != expected.lower():
                pool.shutdown(wait=False, cancel_futures=True)
                raise BadModel(f"{path}: is damaged (its MD5 is {found}, not {expected})")


def _md5(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(
                file, partial(hashlib.md5, usedforsecurity=False)
            ).hexdigest()
    except OSError as error:
        raise BadModel(f"{path}: {os.strerror(error.errno or 0)}") from None
