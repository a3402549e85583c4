"""A folder as MLC LLM publishes it serves the same tokens as the checkpoint it was made from."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from support.folders import tiny_llama, write_hf_folder, write_mlc_folder
from support.server import Server, run_cli

PROMPT = [5, 17, 40, 3, 99, 120, 7]


def tokens(folder: Path, *flags: str) -> list[str]:
    with Server(str(folder), *flags) as server:
        body = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
        answer = requests.post(
            f"{server.base_url}/completions", json={**body, "logprobs": 1}, timeout=60
        )
        assert answer.status_code == 200, answer.text
        found: list[str] = answer.json()["choices"][0]["logprobs"]["tokens"]
        return found


@pytest.mark.parametrize("manifest", ["tensor-cache.json", "ndarray-cache.json"])
def test_it_serves_what_the_quantized_checkpoint_serves(manifest: str, tmp_path: Path) -> None:
    arch = tiny_llama()
    write_hf_folder(tmp_path / "hf", arch, seed=3, dtype="F16")
    write_mlc_folder(tmp_path / "mlc", arch, "q4f16_1", seed=3, manifest=manifest)
    expected = tokens(tmp_path / "hf", "--quantization", "q4f16_1")
    assert len(expected) == 24
    assert tokens(tmp_path / "mlc") == expected


def test_a_shard_with_a_wrong_checksum_ends_start_up(tmp_path: Path) -> None:
    write_mlc_folder(tmp_path, tiny_llama(), "q4f16_1")
    shard = next(tmp_path.glob("params_shard_*.bin"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    done = run_cli("serve", str(tmp_path), "--port", "0")
    assert done.returncode == 1
    assert shard.name in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
