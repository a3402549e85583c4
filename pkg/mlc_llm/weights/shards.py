"""The files of an MLC folder that hold weights: which tensor goes where, and the manifest.

    params_shard_<i>.bin    raw tensors one after the other, row-major, little-endian
    tensor-cache.json       the list of shards and of the tensors in each
    tensor-cache-b16.json   the same with float32 tensors named as the bfloat16 they are stored in

`plan` is pure: it decides by sizes alone, as TVM's writer does, so that all tensors may then be
written at once, in any order and in pieces. Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

MANIFEST = "tensor-cache.json"
MANIFEST_16 = "tensor-cache-b16.json"
FORMAT = "f32-to-bf16"
"""What every record says; it means something for float32 only, which then takes 16 bits."""

SHARD_BYTES = 32 << 20

ITEM_BYTES = {"float32": 2, "float16": 2, "bfloat16": 2, "uint32": 4, "float8_e4m3fn": 1}
"""Bytes of an element in the file, by the dtype of its record."""


class Record(Struct, frozen=True, rename="camel"):
    """A tensor in a shard."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    format: str
    nbytes: int
    byte_offset: int = 0


class Shard(Struct, frozen=True):
    """A file and what is to be in it."""

    name: str
    nbytes: int
    records: tuple[Record, ...]


def record(name: str, shape: tuple[int, ...], dtype: str) -> Record:
    """A tensor that has no place yet; `dtype` is a key of `ITEM_BYTES`."""
    return Record(name, shape, dtype, FORMAT, math.prod(shape) * ITEM_BYTES[dtype])


def plan(records: Iterable[Record], cap: int = SHARD_BYTES) -> list[Shard]:
    """Give every tensor its place: files of less than `cap` bytes in the order of the tensors.

    A tensor of half a file or more that does not fit into the current one gets a file of its own,
    and the current one goes on.
    """
    shards: list[Shard] = []
    pending: list[Record] = []
    filled = 0

    def close(members: Sequence[Record], size: int) -> None:
        shards.append(Shard(f"params_shard_{len(shards)}.bin", size, tuple(members)))

    for tensor in records:
        if filled + tensor.nbytes >= cap:
            if 2 * tensor.nbytes >= cap:
                close([tensor], tensor.nbytes)
                continue
            if pending:
                close(pending, filled)
            pending, filled = [], 0
        pending.append(msgspec.structs.replace(tensor, byte_offset=filled))
        filled += tensor.nbytes
    if pending:
        close(pending, filled)
    return shards


def write_manifests(
    folder: Path, shards: Sequence[Shard], digests: Mapping[str, str], num_parameters: int
) -> None:
    """Both manifests; `digests` has the MD5 of each file. The one MLC reads is written last."""
    total = sum(shard.nbytes for shard in shards)
    metadata = {
        "ParamSize": sum(len(shard.records) for shard in shards),
        "ParamBytes": float(total),
        "BitsPerParam": total * 8 / num_parameters,
    }
    if any(record.dtype == "float32" for shard in shards for record in shard.records):
        _write(folder / MANIFEST_16, metadata, [_described(s, digests, True) for s in shards])
    _write(folder / MANIFEST, metadata, [_described(s, digests, False) for s in shards])


def _described(shard: Shard, digests: Mapping[str, str], as_stored: bool) -> dict[str, Any]:
    records = shard.records
    if as_stored:
        records = tuple(
            msgspec.structs.replace(r, dtype="bfloat16", format="raw")
            if r.dtype == "float32"
            else r
            for r in records
        )
    return {
        "dataPath": shard.name,
        "format": "raw-shard",
        "nbytes": shard.nbytes,
        "records": msgspec.to_builtins(records),
        "md5sum": digests[shard.name],
    }


def _write(path: Path, metadata: dict[str, Any], records: list[dict[str, Any]]) -> None:
    document = msgspec.json.encode({"metadata": metadata, "records": records})
    path.write_bytes(msgspec.json.format(document, indent=4))
