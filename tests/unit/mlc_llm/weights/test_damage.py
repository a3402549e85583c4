"""Whatever is wrong with a folder, reading it ends in one of our errors, which names the file."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc_llm.errors import BadModel, MLCError
from mlc_llm.models.folder import open_folder
from mlc_llm.quantization.scheme import SCHEMES
from mlc_llm.weights.load import load_weights
from mlc_llm.weights.sources.find import find_tensors
from support.folders import (
    Stored,
    encode,
    hf_config,
    split_parameter,
    tiny_llama,
    write_hf_folder,
    write_json,
    write_mlc_folder,
    write_safetensors,
)
from support.oracle import random_weights
from support.packed_codes import awq, gptq, random_codes

ARCH = tiny_llama(vocab_size=280, num_hidden_layers=1)
JUNK = (b"null", b"-1", b"[]", b"{}", b'"x"', b"1e999", b"18446744073709551616", b"\xff", b"}", b"")
FOLDERS: dict[str, Callable[[Path], object]] = {
    "one file": lambda path: write_hf_folder(path, ARCH),
    "an index": lambda path: write_hf_folder(path, ARCH, sharded=True),
    "MLC": lambda path: write_mlc_folder(path, ARCH, "q4f16_1"),
    "GPTQ": lambda path: write_packed_folder(path, "gptq"),
    "AWQ": lambda path: write_packed_folder(path, "awq"),
    "float8": lambda path: write_float8_folder(path),
}


def write_packed_folder(path: Path, method: Literal["gptq", "awq"]) -> None:
    make = gptq if method == "gptq" else awq

    def coded(name: str, rows: int, cols: int) -> dict[str, Stored]:
        stored = make(name.removesuffix(".weight"), *random_codes(cols, rows, 2))
        if method == "gptq":
            groups = (np.arange(cols) // (cols // 2)).astype(np.int32)
            stored[name.removesuffix("weight") + "g_idx"] = "I32", groups
        return stored

    write_coded_folder(path, coded, quant_method=method, bits=4)


def write_float8_folder(path: Path) -> None:
    def coded(name: str, rows: int, cols: int) -> dict[str, Stored]:
        bits = np.random.default_rng(rows).integers(0, 0x7F, (rows, cols)).astype(np.uint8)
        scales = np.full((-(-rows // 16), -(-cols // 16)), 0.01, np.float32)
        return {name: ("F8_E4M3", bits), f"{name}_scale_inv": ("F32", scales)}

    write_coded_folder(path, coded, quant_method="fp8", weight_block_size=[16, 16])


def write_coded_folder(
    path: Path, coded: Callable[[str, int, int], dict[str, Stored]], **settings: object
) -> None:
    """A folder whose layers' matrices lie in codes."""
    write_hf_folder(path, ARCH)
    write_json(path / "config.json", {**hf_config(ARCH), "quantization_config": settings})
    stored: dict[str, Stored] = {}
    for parameter, matrix in random_weights(ARCH, 0).items():
        for name, value in split_parameter(ARCH, parameter, matrix).items():
            in_codes = value.ndim == 2 and ".layers." in name
            stored |= coded(name, *value.shape) if in_codes else {name: encode(value, "F16")}
    write_safetensors(path / "model.safetensors", stored)


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
        at = rng.randrange(min(len(data), 6000) if rng.random() < 0.8 else len(data))
        if path.suffix == ".json" and rng.random() < 0.7:
            data[at : at + rng.randint(1, 8)] = rng.choice(JUNK)
        else:
            data[at] = rng.choice([0, 0xFF, rng.randrange(256)])
    path.write_bytes(data)


@pytest.mark.parametrize("kind", FOLDERS)
@settings(max_examples=40)
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
