"""A GGUF file serves the same tokens as the folder it was made from, with its own tokenizer."""

from __future__ import annotations

from pathlib import Path

import requests

from support import gguf_files
from support.folders import tiny_llama, write_hf_folder
from support.server import Server, run_cli

ARCH = tiny_llama(intermediate_size=96)
BODY = {"prompt": "Once upon a day", "max_tokens": 24, "temperature": 0, "ignore_eos": True}


def answer(model: Path, *flags: str) -> tuple[str, str, int]:
    with Server(str(model), *flags) as server:
        found = requests.post(f"{server.base_url}/completions", json=BODY, timeout=60).json()
        return found["model"], found["choices"][0]["text"], found["usage"]["prompt_tokens"]


def test_it_serves_what_the_folder_serves(tmp_path: Path) -> None:
    write_hf_folder(tmp_path / "hf", ARCH, seed=3)
    gguf_files.write_llama(tmp_path / "toy.gguf", ARCH, seed=3)
    name, text, count = answer(tmp_path / "toy.gguf")
    assert name == str(tmp_path / "toy.gguf")
    assert (text, count) == answer(tmp_path / "hf")[1:]


def test_it_can_be_converted(tmp_path: Path) -> None:
    gguf_files.write_llama(tmp_path / "toy.gguf", ARCH, kind="Q4_0")
    for command in ("convert_weight", "gen_config"):
        done = run_cli(
            command,
            str(tmp_path / "toy.gguf"),
            "--quantization",
            "q4f16_1",
            "-o",
            str(tmp_path / "mlc"),
        )
        assert done.returncode == 0, done.stderr
    served = answer(tmp_path / "toy.gguf", "--quantization", "q4f16_1")
    assert answer(tmp_path / "mlc")[1:] == served[1:]


def test_a_damaged_file_ends_start_up_with_one_line(tmp_path: Path) -> None:
    path = gguf_files.write_llama(tmp_path / "toy.gguf", ARCH)
    path.write_bytes(path.read_bytes()[:-100])
    done = run_cli("serve", str(path), "--port", "0")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert f"{path}: tensor" in last
    assert "leave the" in last
    assert "Traceback" not in done.stderr
