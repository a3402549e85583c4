"""PyTorch's files are read as data: whatever else they hold ends in one line, and nothing runs."""

from __future__ import annotations

import random
import struct
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_llm.errors import BadModel
from mlc_llm.models.folder import open_folder
from mlc_llm.quantization.scheme import SCHEMES
from mlc_llm.weights import archive
from mlc_llm.weights.load import load_weights
from mlc_llm.weights.source import read_rows
from mlc_llm.weights.sources import torch_bin
from mlc_llm.weights.sources.torch_program import ProgramFault, read_program
from support import torch_files
from support.folders import encode, split_parameter, tiny_llama, write_hf_folder, write_json
from support.oracle import random_weights
from support.torch_files import dictionary, mention, number, tensor, text, write_archive

ARCH = tiny_llama()


def write_torch_folder(path: Path, files: int) -> None:
    """The folder of `write_hf_folder`, its weights in `files` files of PyTorch's."""
    write_hf_folder(path, ARCH)
    (path / "model.safetensors").unlink()
    stored = [
        (name, encode(value, "F32"))
        for parameter, matrix in random_weights(ARCH, 0).items()
        for name, value in split_parameter(ARCH, parameter, matrix).items()
    ]
    if files == 1:
        torch_files.write(path / "pytorch_model.bin", dict(stored))
        return
    weight_map = {}
    for i in range(files):
        torch_files.write(path / f"pytorch_model-{i}.bin", dict(stored[i::files]))
        weight_map |= {name: f"pytorch_model-{i}.bin" for name, _ in stored[i::files]}
    write_json(path / "pytorch_model.bin.index.json", {"weight_map": weight_map})


@pytest.mark.parametrize("files", [1, 3])
def test_a_folder_of_pytorch_is_that_of_safetensors(files: int, tmp_path: Path) -> None:
    write_hf_folder(tmp_path / "safe", ARCH)
    write_torch_folder(tmp_path / "torch", files)
    expected, found = (
        load_weights(open_folder(tmp_path / name), SCHEMES["q0f32"]) for name in ("safe", "torch")
    )
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def test_tensors_may_share_a_storage_and_start_within_it(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float16)
    program = dictionary(
        {
            "a": tensor("0", "F16", (4, 6)),
            "b": tensor("0", "F16", (2, 6), offset=12, count=24),
            "c": tensor("0", "F16", (1, 6), offset=6, strides=(99, 1), count=24),
        }
    )
    path = write_archive(tmp_path / "m.bin", program, {"0": values.tobytes()})
    found = torch_bin.tensors_of_file(path)
    assert np.array_equal(read_rows(found["a"], 0, 4), values.reshape(4, 6))
    assert np.array_equal(read_rows(found["b"], 1, 2), values[18:].reshape(1, 6))
    assert np.array_equal(read_rows(found["c"], 0, 1), values[6:12].reshape(1, 6))


def test_parameters_and_the_state_of_modules_are_understood() -> None:
    parameter = (
        mention("torch._utils", "_rebuild_parameter")
        + b"("
        + tensor("0", "F32", (2,))
        + b"\x88"
        + mention("collections", "OrderedDict")
        + b")RtR"
    )
    program = dictionary({"a": parameter})[:-1] + b"}" + text("_metadata") + b"Nsb."
    assert read_program(program)["a"].shape == (2,)


def test_what_was_remembered_is_the_same_again() -> None:
    whole = tensor("0", "F32", (2,)) + b"q\x05"
    program = dictionary({"a": whole, "b": b"h\x05", "c": b"h\x05"})
    found = read_program(program)
    assert found["a"] == found["b"] == found["c"]


OS_SYSTEM = mention("os", "system") + b"(" + text("touch /tmp/never") + b"tR"
HOSTILE = {
    "a call of a shell": (dictionary({"a": OS_SYSTEM}), "mentions 'os.system'"),
    "a builtin": (dictionary({"a": mention("builtins", "eval")}), "mentions 'builtins.eval'"),
    "a name by text": (dictionary({"a": text("os") + text("system") + b"\x93"}), "0x93"),
    "an object by its class": (dictionary({"a": b"(ios\nsystem\n"}), "0x69"),
    "an extension": (dictionary({"a": b"\x82\x01"}), "0x82"),
    "a new object": (dictionary({"a": mention("torch", "FloatStorage") + b")\x81"}), "0x81"),
    "a call of a storage": (
        dictionary({"a": mention("torch", "FloatStorage") + b")R"}),
        "no function",
    ),
    "another torch function": (
        dictionary({"a": mention("torch.serialization", "load")}),
        "mentions 'torch.serialization.load'",
    ),
    "an empty program": (b"", "cut off"),
    "no end": (dictionary({})[:-1], "cut off"),
    "a text that is not there": (b"\x80\x02X\xff\xff\xff\x7fabc", "cut off"),
    "a text that is none": (b"\x80\x02X\x01\0\0\0\xff.", "UTF-8"),
    "nothing remembered": (b"\x80\x02h\x07.", "cut off"),
    "an empty stack": (b"\x80\x02u.", "cut off"),
    "a number of many bytes": (b"\x80\x02\x8a\xff" + bytes(255) + b".", "more than 64 bits"),
    "no dictionary": (b"\x80\x02N.", "no dictionary"),
    "a list": (b"\x80\x02].", "no dictionary"),
    "something that is no tensor": (dictionary({"a": b"N"}), "'a', which is no tensor"),
    "a key that is none": (b"\x80\x02}(" + b"]" + b"Nu.", "no name"),
    "a key twice": (b"\x80\x02}(" + (text("a") + b"N") * 2 + b"u.", "'a' twice"),
    "a dictionary that is filled": (
        dictionary({"a": mention("collections", "OrderedDict") + b"(]tR"}),
        "fills a dictionary",
    ),
    "a state of a tensor": (dictionary({"a": tensor("0", "F32", (1,)) + b"Nb"}), "state"),
    "a storage by number": (dictionary({"a": number(1) + b"Q"}), "names a storage"),
    "a size below zero": (dictionary({"a": tensor("0", "F32", (-1,))}), "unknown way"),
    "a size beyond everything": (
        dictionary({"a": tensor("0", "F32", (1 << 60,), count=1)}),
        "unknown way",
    ),
    "an unknown storage": (dictionary({"a": tensor("0", "QInt8Storage", (1,))}), "QInt8Storage"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_program_that_does_more_is_refused(case: str, tmp_path: Path) -> None:
    program, complaint = HOSTILE[case]
    before = set(sys.modules)
    path = write_archive(tmp_path / "pytorch_model.bin", program, {"0": bytes(4)})
    with pytest.raises(BadModel) as raised:
        torch_bin.tensors_of_file(path)
    assert complaint in raised.value.message
    assert raised.value.message.startswith(f"{path}: ")
    assert set(sys.modules) == before


WRONG = {
    "data that is not there": (tensor("7", "F32", (2,)), "tensor a: its data '7' is not in"),
    "more than there is": (tensor("0", "F32", (3,)), "tensor a: leaves the 8 bytes"),
    "an offset past the end": (tensor("0", "F32", (2,), offset=1), "tensor a: leaves the 8"),
    "columns one after the other": (
        tensor("0", "F32", (2, 2), strides=(1, 2)),
        "tensor a: does not lie row by row",
    ),
    "one row again and again": (
        tensor("0", "F32", (4, 2), strides=(0, 1), count=2),
        "tensor a: does not lie row by row",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_tensor_that_lies_wrong_is_named(case: str, tmp_path: Path) -> None:
    value, complaint = WRONG[case]
    path = write_archive(tmp_path / "m.bin", dictionary({"a": value}), {"0": bytes(8)})
    with pytest.raises(BadModel) as raised:
        torch_bin.tensors_of_file(path)
    assert complaint in raised.value.message


def test_an_archive_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    good = torch_files.write(path, {"a": ("F32", np.zeros(64, np.float32))}).read_bytes()
    end = good.rfind(b"PK\5\6")
    cases = {
        b"": "cut off",
        good[:-30]: "cut off",
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + bytes(90): "before PyTorch 1.6",
        good[:end] + good[end : end + 12] + b"\xfe\xff\xff\x7f" * 2 + good[end + 20 :]: "cannot be",
        good.replace(b"data.pkl", b"data.pk_"): "no data.pkl",
        good.replace(b"/byteorder", b"/data.pkl", 0).replace(b"little", b"big   "): "big-endian",
    }
    for content, complaint in cases.items():
        path.write_bytes(content)
        with pytest.raises(BadModel, match=complaint):
            torch_bin.tensors_of_file(path)
    write_archive(path, dictionary({}), {}, compressed=True)
    with pytest.raises(BadModel, match="compressed"):
        torch_bin.tensors_of_file(path)


def test_sizes_of_64_bits_are_read(tmp_path: Path) -> None:
    name, data = b"a/data.pkl", b"12345678"
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 45, 0, 0, 0, 0, 0, 8, 8, len(name), 0)
    wide = (1 << 32) - 1
    extra = struct.pack("<HHQQQ", 1, 24, 8, 8, 0)
    entry = struct.pack(
        "<4sHHHHHHIIIHHHHHII",
        *(b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, wide, wide),
        *(len(name), len(extra), 0, 0, 0, 0, wide),
    )
    directory = entry + name + extra
    start = len(local + name + data)
    end_64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(directory), start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, start + len(directory), 1)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, wide, wide, 0)
    path = tmp_path / "wide.zip"
    path.write_bytes(local + name + data + directory + end_64 + locator + end)
    assert archive.members(path) == {"a/data.pkl": archive.Member(len(local + name), 8)}


@given(seed=st.integers(0, 1 << 32))
def test_no_damaged_program_raises_anything_else(seed: int) -> None:
    rng = random.Random(seed)
    program = bytearray(dictionary({"a": tensor("0", "F32", (2, 2)), "b": b"h\x05"}))
    for _ in range(rng.randint(1, 8)):
        program[rng.randrange(len(program))] = rng.choice(
            [*b"}](tqhQRsueb.KJMN", rng.randrange(256)]
        )
    with suppress(ProgramFault):
        read_program(bytes(program))


@given(seed=st.integers(0, 1 << 32))
def test_no_damaged_archive_raises_anything_else(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = random.Random(seed)
    path = tmp_path_factory.mktemp("torch") / "m.bin"
    data = bytearray(torch_files.write(path, {"a": ("F32", np.ones(8, np.float32))}).read_bytes())
    for _ in range(rng.randint(1, 6)):
        data[rng.randrange(len(data))] = rng.choice([0, 0xFF, rng.randrange(256)])
    path.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.3 else data)
    with suppress(BadModel):
        torch_bin.tensors_of_file(path)
