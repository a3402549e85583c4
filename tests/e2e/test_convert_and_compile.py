"""The way of a model through convert_weight, gen_config, compile and serve."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import requests

from support.folders import tiny_llama, write_hf_folder
from support.server import Server, run_cli

PROMPT = [5, 17, 40, 3, 99, 120, 7]


def tokens(folder: Path, *flags: str) -> list[str]:
    body = {"prompt": PROMPT, "max_tokens": 16, "temperature": 0, "ignore_eos": True, "logprobs": 1}
    with Server(str(folder), *flags) as server:
        answer = requests.post(f"{server.base_url}/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        found: list[str] = answer.json()["choices"][0]["logprobs"]["tokens"]
        return found


def test_a_converted_and_compiled_model_serves_what_the_checkpoint_serves(tmp_path: Path) -> None:
    source, made, library = tmp_path / "hf", tmp_path / "mlc", tmp_path / "lib" / "model.so"
    write_hf_folder(source, tiny_llama(), seed=3, dtype="F16")
    quantized = ("--quantization", "q4f16_1", "-o", str(made))
    for command in (
        ("convert_weight", str(source), *quantized),
        ("gen_config", str(source), *quantized),
        ("compile", str(made), "-o", str(library), "--overrides", "context_window_size=128"),
    ):
        done = run_cli(*command)
        assert done.returncode == 0, done.stderr
    expected = tokens(source, "--quantization", "q4f16_1")
    assert tokens(made, "--model-lib", str(library)) == expected
    described = run_cli("model_metadata", str(library))
    assert described.returncode == 0, described.stderr
    metadata = json.loads(described.stdout)
    assert (metadata["model_type"], metadata["quantization"]) == ("llama", "q4f16_1")
    assert metadata["params"][0].keys() == {"name", "shape", "dtype"}
    config = str(made / "mlc-chat-config.json")
    memory = run_cli("model_metadata", str(library), "--memory-only", "--mlc-chat-config", config)
    assert "KV cache: 0.0003 MB per token (bfloat16)\nwith 256 tokens" in memory.stdout
    library.write_bytes(library.read_bytes()[:-1])
    done = run_cli("model_metadata", str(library))
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not a complete library" in done.stderr


def test_a_killed_conversion_leaves_nothing_that_the_next_does_not_remove(tmp_path: Path) -> None:
    write_hf_folder(tmp_path / "hf", tiny_llama())
    left = tmp_path / "mlc" / ".converting-killed"
    left.mkdir(parents=True)
    (left / "lock").touch()
    (left / "params_shard_0.bin").write_bytes(b"half of it")
    held = tmp_path / "mlc" / ".converting-held"
    held.mkdir()
    with (held / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        target = str(tmp_path / "mlc")
        done = run_cli(
            "convert_weight", str(tmp_path / "hf"), "--quantization", "q0f16", "-o", target
        )
    assert done.returncode == 0, done.stderr
    assert not left.exists()
    assert held.exists()


def test_a_broken_checkpoint_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    write_hf_folder(tmp_path / "hf", tiny_llama())
    (tmp_path / "hf" / "model.safetensors").write_bytes(b"\xff" * 64)
    target = str(tmp_path / "mlc")
    done = run_cli("convert_weight", str(tmp_path / "hf"), "--quantization", "q0f16", "-o", target)
    assert done.returncode == 1
    assert "model.safetensors" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "mlc").exists()
