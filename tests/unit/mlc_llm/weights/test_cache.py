"""Quantized weights are kept, used again, and never trusted further than their checksums."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from mlc_llm.errors import BadModel
from mlc_llm.models.folder import open_folder
from mlc_llm.quantization.scheme import SCHEMES
from mlc_llm.weights import cache as caching
from mlc_llm.weights.cache import load_cached
from mlc_llm.weights.load import load_weights
from support.folders import tiny_llama, write_hf_folder, write_mlc_folder

Q4 = SCHEMES["q4f16_1"]


@pytest.fixture(autouse=True)
def every_model_is_worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "WORTHWHILE", 0)
    monkeypatch.setattr(caching, "_PIECE", 1000)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_hf_folder(tmp_path / "model", tiny_llama(), 1, "F16", False)
    return tmp_path / "model"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class Usage(NamedTuple):
    """Of a disk, as `shutil` tells it."""

    total: int
    used: int
    free: int


def files(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name != "lock")


def load(model: Path, cache: Path, scheme: str = "q4f16_1") -> str:
    """Load, compare with the source, and give the origin."""
    folder = open_folder(model)
    found, origin = load_cached(folder, SCHEMES[scheme], None, cache)
    assert_same(found, load_weights(folder, SCHEMES[scheme]))
    return origin


def assert_same(found: list[NDArray[Any]], expected: list[NDArray[Any]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
        assert one.ctypes.data % 64 == 0


def test_the_second_time_nothing_is_quantized(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(model, cache).startswith("kept as ")
    folder = open_folder(model)
    expected = load_weights(folder, Q4)
    monkeypatch.delattr(caching, "load_weights")
    calls: list[tuple[int, int]] = []
    found, origin = load_cached(folder, Q4, lambda *done: calls.append(done), cache)
    assert origin.startswith("quantized earlier")
    assert_same(found, expected)
    assert calls[-1][0] == calls[-1][1]


@pytest.mark.parametrize("scheme", ["q0f32", "q0f16"])
def test_what_need_not_be_quantized_is_not_kept(model: Path, cache: Path, scheme: str) -> None:
    assert load(model, cache, scheme) == "as they are stored"
    assert not cache.exists()


def test_an_mlc_folder_is_quantized_already(tmp_path: Path, cache: Path) -> None:
    write_mlc_folder(tmp_path / "model", tiny_llama())
    assert load(tmp_path / "model", cache) == "as they are stored"


@pytest.mark.parametrize("place", [0, 5000, -1], ids=["data", "middle", "checksums"])
def test_a_damaged_file_is_made_again(model: Path, cache: Path, place: int) -> None:
    load(model, cache)
    (path,) = cache.glob("*.packed")
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert load(model, cache).startswith("kept as ")
    assert load(model, cache).startswith("quantized earlier")


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_file_cut_short_is_made_again(model: Path, cache: Path, size: int) -> None:
    load(model, cache)
    (path,) = cache.glob("*.packed")
    os.truncate(path, size)
    assert load(model, cache).startswith("kept as ")


def test_a_file_under_another_name_is_not_taken_for_it(model: Path, cache: Path) -> None:
    load(model, cache)
    (path,) = cache.glob("*.packed")
    shutil.copytree(model, model.with_name("other"))
    other = caching.cache_key(open_folder(model.with_name("other")), Q4)
    path.rename(path.with_stem(other))
    assert load(model.with_name("other"), cache).startswith("kept as ")


def test_new_weights_in_the_same_place_are_seen(model: Path, cache: Path) -> None:
    load(model, cache)
    write_hf_folder(model, tiny_llama(), 2, "F16", False)
    os.utime(model / "model.safetensors", ns=(1, 1))  # another time even where clocks are coarse
    assert load(model, cache).startswith("kept as ")


def test_a_bad_model_is_refused_with_a_cache_as_without(model: Path, cache: Path) -> None:
    load(model, cache)
    (model / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(BadModel):
        load(model, cache)


def test_what_was_used_longest_ago_makes_room(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(model, cache)
    (first,) = cache.glob("*.packed")
    monkeypatch.setattr(caching, "MAX_BYTES", 2 * first.stat().st_size)
    models = [model]
    for name in ("second", "third"):
        models.append(model.with_name(name))
        shutil.copytree(model, models[-1])
    load(models[1], cache)
    (second,) = set(cache.glob("*.packed")) - {first}
    os.utime(first, ns=(1, 1))
    os.utime(second, ns=(2, 2))
    assert load(model, cache).startswith("quantized earlier")  # the first is the newest now
    load(models[2], cache)
    assert first.exists()
    assert not second.exists()
    assert len(files(cache)) == 2


def test_a_killed_writer_leaves_nothing_for_long(model: Path, cache: Path) -> None:
    cache.mkdir()
    (cache / "0123.part").write_bytes(b"half")
    load(model, cache)
    assert [Path(name).suffix for name in files(cache)] == [".packed"]


def test_beside_another_writer_nothing_is_kept(model: Path, cache: Path) -> None:
    cache.mkdir()
    with (cache / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert load(model, cache) == "not kept: another process is writing to the cache"
    assert files(cache) == []


def test_a_disk_that_fills_up_does_no_harm(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: memoryview) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching, "_write_all", full)
    assert "No space left on device" in load(model, cache)
    assert files(cache) == []


def test_a_disk_is_not_filled(model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9, 9, 0))
    assert "are free in" in load(model, cache)
    assert files(cache) == []


def test_a_cache_that_cannot_be_made_does_no_harm(model: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert "cannot be written" in load(model, cache)
