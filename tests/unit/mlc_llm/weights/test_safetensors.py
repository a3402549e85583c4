"""Files that lie are refused with the name of the file and of the tensor."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mlc_llm.errors import BadModel
from mlc_llm.weights.safetensors import HEADER_LIMIT, find_tensors, tensors_of_file
from mlc_llm.weights.source import read_rows
from support.folders import write_json, write_raw_safetensors, write_safetensors

DATA = np.arange(6, dtype=np.float32).reshape(3, 2)


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24], **changes}


def write_header(path: Path, header: Any, data: bytes = DATA.tobytes()) -> Path:
    write_raw_safetensors(path, json.dumps(header).encode(), data)
    return path


def complaint(path: Path) -> str:
    with pytest.raises(BadModel) as raised:
        tensors_of_file(path)
    assert str(path) in raised.value.message
    assert "\n" not in raised.value.message
    return raised.value.message


def test_files_of_the_safetensors_package_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": DATA, "b": DATA.astype(np.float16), "c": np.zeros((0, 4), np.float32)}, path)
    found = tensors_of_file(path)
    assert {name: (t.dtype, t.shape) for name, t in found.items()} == {
        "a": ("F32", (3, 2)),
        "b": ("F16", (3, 2)),
        "c": ("F32", (0, 4)),
    }
    assert np.array_equal(read_rows(found["a"], 1, 3), DATA[1:])
    assert np.array_equal(read_rows(found["b"], 0, 2), DATA[:2].astype(np.float16))


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "past the end": (entry(data_offsets=[1, 25]), "leave"),
    "far past the end": (entry(data_offsets=[1 << 62, (1 << 62) + 24]), "leave"),
    "backwards": (entry(data_offsets=[24, 0]), "leave"),
    "negative offset": (entry(data_offsets=[-24, 0]), "data_offsets"),
    "too many offsets": (entry(data_offsets=[0, 24, 24]), "data_offsets"),
    "shape too small": (entry(shape=[3, 1]), "does not fill"),
    "shape overflows 64 bits": (entry(shape=[1 << 62, 1 << 62]), "does not fill"),
    "negative shape": (entry(shape=[-3, -2]), "shape"),
    "huge dimension": (entry(shape=[1 << 70]), "shape"),
    "fractional shape": (entry(shape=[1.5]), "shape"),
    "unknown dtype": (entry(dtype="F12"), "F12"),
    "no dtype": ({"shape": [3, 2], "data_offsets": [0, 24]}, "dtype"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_entry_is_refused_by_name(lie: str, tmp_path: Path) -> None:
    value, word = LIES[lie]
    message = complaint(write_header(tmp_path / "m.safetensors", {"layer.w": value}))
    assert "tensor layer.w" in message
    assert word in message


def test_tensors_that_share_bytes_are_refused(tmp_path: Path) -> None:
    header = {"a": entry(), "b": entry(shape=[2], data_offsets=[16, 24])}
    message = complaint(write_header(tmp_path / "m.safetensors", header))
    assert "tensor b: overlaps tensor a" in message


def test_a_name_that_appears_twice_is_refused(tmp_path: Path) -> None:
    one = json.dumps(entry())
    path = tmp_path / "m.safetensors"
    write_raw_safetensors(path, f'{{"w": {one}, "w": {one}}}'.encode(), DATA.tobytes())
    assert "'w' appears twice" in complaint(path)


def test_a_header_longer_than_the_file_or_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for content in (b"", b"\x01\x02", (1 << 63).to_bytes(8, "little"), b"\x09" + b"\0" * 7 + b"{}"):
        path.write_bytes(content)
        assert "cut off" in complaint(path)
    with path.open("wb") as file:
        file.write((HEADER_LIMIT + 1).to_bytes(8, "little"))
        file.truncate(HEADER_LIMIT + 100)
    assert "more than" in complaint(path)


@pytest.mark.parametrize("header", [b"", b"[]", b"{", b"\xff{}", b"[" * 100_000, b'{"w": 3}'])
def test_a_header_that_is_no_object_of_entries_is_refused(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_raw_safetensors(path, header, b"")
    complaint(path)


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 255), st.integers(0, 250))
def test_no_damage_raises_anything_but_bad_model(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, length: int
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "m.safetensors"
    write_safetensors(path, {"a": ("F32", DATA), "b": ("F16", DATA.astype(np.float16))})
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content[:length])
    try:
        for tensor in tensors_of_file(path).values():
            if tensor.dtype in ("F32", "F16"):
                read_rows(tensor, 0, tensor.shape[0] if tensor.shape else 1)
    except BadModel:
        pass


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"a": ("F32", DATA)})
    tensor = tensors_of_file(path)["a"]
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(BadModel, match="tensor a: the file ended"):
        read_rows(tensor, 0, 3)


def indexed(folder: Path, weight_map: dict[str, str]) -> Path:
    write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})
    return folder


@pytest.mark.parametrize("name", ["../m.safetensors", "/m.safetensors", "sub/m", "..", ""])
def test_a_shard_outside_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="is not a file name of this folder"):
        find_tensors(indexed(tmp_path, {"w": name}))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"gone\.safetensors: No such file"):
        find_tensors(indexed(tmp_path, {"w": "gone.safetensors"}))


def test_a_tensor_that_is_not_where_the_index_says_is_named(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "one", {"a": ("F32", DATA)})
    write_safetensors(tmp_path / "two", {"b": ("F32", DATA)})
    with pytest.raises(BadModel, match="tensor a is not in two"):
        find_tensors(indexed(tmp_path, {"a": "two", "b": "one"}))


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_safetensors(tmp_path / name, {"a": ("F32", DATA), name: ("F32", DATA)})
    with pytest.raises(BadModel, match="tensor a: is also in one"):
        find_tensors(indexed(tmp_path, {"one": "one", "a": "one", "two": "two"}))


def test_a_link_to_a_blob_is_followed_but_a_pipe_is_not_opened(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "blob", {"a": ("F32", DATA)})
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    assert list(find_tensors(folder)) == ["a"]
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(BadModel, match="not a regular file"):
        find_tensors(folder)


def test_a_folder_without_weights_says_which_files_it_wants(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"neither model\.safetensors nor"):
        find_tensors(tmp_path)
