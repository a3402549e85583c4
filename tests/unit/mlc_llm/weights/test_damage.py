"""Whatever is wrong with a folder, reading it ends in one of our errors, which names the file."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc_llm.errors import BadModel, MLCError
from mlc_llm.models.folder import open_folder
from mlc_llm.quantization.scheme import SCHEMES
from mlc_llm.weights.load import load_weights
from mlc_llm.weights.sources.find import find_tensors
from support.folders import tiny_llama, write_hf_folder, write_mlc_folder

ARCH = tiny_llama(vocab_size=280, num_hidden_layers=1)
JUNK = (b"null", b"-1", b"[]", b"{}", b'"x"', b"1e999", b"18446744073709551616", b"\xff", b"}", b"")
FOLDERS: dict[str, Callable[[Path], object]] = {
    "one file": lambda path: write_hf_folder(path, ARCH),
    "an index": lambda path: write_hf_folder(path, ARCH, sharded=True),
    "MLC": lambda path: write_mlc_folder(path, ARCH, "q4f16_1"),
}
_MADE: dict[str, Path] = {}


def copied(kind: str, factory: pytest.TempPathFactory) -> Path:
    if kind not in _MADE:
        _MADE[kind] = factory.mktemp("whole") / "model"
        FOLDERS[kind](_MADE[kind])
    return Path(shutil.copytree(_MADE[kind], factory.mktemp("damaged") / "model"))


def damage(path: Path, rng: random.Random) -> None:
    """Change a text somewhere, or bytes where the headers are, or cut the file off."""
    data = bytearray(path.read_bytes())
    if rng.random() < 0.3:
        path.write_bytes(data[: rng.randrange(len(data))])
        return
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(len(data), 6000))
        if path.suffix == ".json" and rng.random() < 0.7:
            data[at : at + rng.randint(1, 8)] = rng.choice(JUNK)
        else:
            data[at] = rng.choice([0, 0xFF, rng.randrange(256)])
    path.write_bytes(data)


@pytest.mark.parametrize("kind", FOLDERS)
@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 32))
def test_no_damage_raises_anything_but_our_errors(
    kind: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = random.Random(seed)
    path = copied(kind, tmp_path_factory)
    damage(rng.choice(sorted(path.iterdir())), rng)
    problem = reading(path)
    assert problem is None or "\n" not in problem
    shutil.rmtree(path)


def reading(path: Path) -> str | None:
    """What is said of the folder; None when it can be read."""
    try:
        folder = open_folder(path)
        load_weights(folder, SCHEMES["q0f32" if folder.format == "huggingface" else "q4f16_1"])
    except MLCError as error:
        return error.message
    return None


SPECIAL: dict[str, Callable[[Path], None]] = {
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "nothing": lambda path: path.symlink_to("/nowhere/at/all"),
    "itself": lambda path: path.symlink_to(path),
    "a text elsewhere": lambda path: path.symlink_to("/etc/passwd"),
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("case", SPECIAL)
def test_weights_that_are_no_file_of_weights_are_one_line(
    case: str, name: str, tmp_path: Path
) -> None:
    """A link is followed, as the hub's own cache needs it, but only to such a file."""
    SPECIAL[case](tmp_path / name)
    with pytest.raises(BadModel) as raised:
        find_tensors(tmp_path)
    assert str(tmp_path / name) in raised.value.message
    assert "root:" not in raised.value.message


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "mlc-chat-config.json"])
@pytest.mark.parametrize("case", ["a device", "nothing", "a folder", "a pipe"])
def test_a_configuration_that_is_no_file_is_one_line(case: str, name: str, tmp_path: Path) -> None:
    make = write_mlc_folder if name.startswith("mlc") else write_hf_folder
    make(tmp_path / "model", ARCH)
    path = tmp_path / "model" / name
    path.unlink()
    SPECIAL[case](path)
    problem = reading(tmp_path / "model")
    assert problem is not None
    assert str(tmp_path / "model") in problem
