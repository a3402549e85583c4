"""A manifest is believed only where its shards agree."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlc_llm.errors import BadModel
from mlc_llm.weights.tensor_cache import find_tensors
from support.folders import tiny_llama, write_json, write_mlc_folder

Manifest = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_mlc_folder(tmp_path, tiny_llama(num_hidden_layers=1))
    return tmp_path


def edit(folder: Path, change: Callable[[Manifest], object]) -> None:
    path = folder / "tensor-cache.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    write_json(path, manifest)


def complaint(folder: Path, *, verify: bool = True) -> str:
    with pytest.raises(BadModel) as raised:
        find_tensors(folder, verify=verify, threads=2)
    assert "\n" not in raised.value.message
    return raised.value.message


def test_tensors_of_all_shards_are_found(folder: Path) -> None:
    found = find_tensors(folder, verify=True, threads=2)
    words = found["model.layers.0.mlp.gate_up_proj.q_weight"]
    assert (words.dtype, words.shape) == ("U32", (176, 8))
    assert len({tensor.path for tensor in found.values()}) > 1


def test_float32_tagged_as_bfloat16_is_stored_in_two_bytes(tmp_path: Path) -> None:
    write_mlc_folder(tmp_path, tiny_llama(), "q0f32")
    found = find_tensors(tmp_path, verify=True, threads=1)
    assert {tensor.dtype for tensor in found.values()} == {"BF16"}


def set_record(**fields: Any) -> Callable[[Manifest], object]:
    return lambda manifest: manifest["records"][0]["records"][0].update(fields)


def set_shard(**fields: Any) -> Callable[[Manifest], object]:
    return lambda manifest: manifest["records"][0].update(fields)


LIES: dict[str, tuple[Callable[[Manifest], object], str]] = {
    "past the end": (set_record(byteOffset=1 << 20), "leaves the"),
    "negative offset": (set_record(byteOffset=-4), "byteOffset"),
    "overlap": (set_record(byteOffset=4), "overlaps"),
    "wrong size": (set_record(shape=[1, 1]), "does not fill"),
    "shape overflows 64 bits": (set_record(shape=[1 << 62, 1 << 62]), "does not fill"),
    "negative shape": (set_record(shape=[-1, -1]), "shape"),
    "unknown dtype": (set_record(dtype="float12"), "float12"),
    "unknown format": (set_record(format="zip"), "zip"),
    "shard format": (set_shard(format="zip"), "raw-shard"),
    "shard size": (set_shard(nbytes=3), "where its manifest says 3"),
    "wrong checksum": (set_shard(md5sum="0" * 32), "is damaged"),
    "missing shard": (set_shard(dataPath="gone.bin"), "gone.bin: No such file"),
    "escaping shard": (set_shard(dataPath="../params_shard_0.bin"), "not a file name"),
    "absolute shard": (set_shard(dataPath="/etc/passwd"), "not a file name"),
    "name in two shards": (
        lambda m: m["records"][1]["records"][0].update(name=m["records"][0]["records"][0]["name"]),
        "appears twice",
    ),
    "no records": (lambda m: m.pop("records"), "records"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_manifest_is_refused(lie: str, folder: Path) -> None:
    change, word = LIES[lie]
    edit(folder, change)
    assert word in complaint(folder)


def test_a_flipped_bit_is_found_by_the_checksum_unless_it_is_not_asked_for(folder: Path) -> None:
    path = folder / "params_shard_0.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert "params_shard_0.bin: is damaged" in complaint(folder)
    find_tensors(folder, verify=False, threads=1)


def test_a_truncated_shard_is_refused_without_reading_it(folder: Path) -> None:
    path = folder / "params_shard_0.bin"
    os.truncate(path, path.stat().st_size - 1)
    assert "params_shard_0.bin: has" in complaint(folder, verify=False)


def test_a_folder_without_manifest_says_which_it_wants(tmp_path: Path) -> None:
    assert "tensor-cache.json or ndarray-cache.json" in complaint(tmp_path)
