"""The way of a model through convert_weight, gen_config, compile and serve."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from mlc_llm.models.folder import open_folder
from mlc_llm.weights.load import available_cores
from mlc_llm.weights.tensor_cache import find_tensors
from support.folders import mlc_config, tiny_llama, write_hf_folder, write_json, write_tokenizer
from support.server import Server, environment, run_cli

MLC_METADATA = {
    "model_type", "quantization", "context_window_size", "sliding_window_size",
    "attention_sink_size", "prefill_chunk_size", "tensor_parallel_shards",
    "pipeline_parallel_stages", "disaggregation", "kv_state_kind", "max_batch_size",
    "active_vocab_size", "model_task", "params", "kv_cache",
}  # fmt: skip
"""What the libraries of MLC LLM say of themselves."""
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
    assert metadata.keys() > MLC_METADATA
    assert metadata["kv_cache"]["head_dim"] == metadata["architecture"]["head_dim"]
    assert metadata["params"][0].keys() == {"name", "shape", "dtype", "preprocs"}
    config = str(made / "mlc-chat-config.json")
    memory = run_cli("model_metadata", str(library), "--memory-only", "--mlc-chat-config", config)
    assert "KV cache: 0.0003 MB per token (bfloat16)\nwith 256 tokens" in memory.stdout
    library.write_bytes(library.read_bytes()[:-1])
    done = run_cli("model_metadata", str(library))
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not a complete library" in done.stderr
    done = run_cli("model_metadata", str(tmp_path / "gone.so"))
    assert done.stderr.endswith("gone.so: No such file or directory\n")


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


STOPS_AT = """
import sys
from mlc_llm.cli import main
from mlc_llm.weights import convert
def stop(*arguments):
    print("here", flush=True)
    sys.stdin.read()
setattr(convert, sys.argv[1], stop)
main(["convert_weight", *sys.argv[2:]])
"""
"""A conversion that waits where it calls a function of its module."""


@pytest.mark.parametrize("place", ["write_manifests", "count"])
def test_a_conversion_may_be_killed_and_made_again(place: str, tmp_path: Path) -> None:
    """Once before the files are moved, and once between them and their manifest."""
    source, target = tmp_path / "hf", tmp_path / "mlc"
    write_hf_folder(source, tiny_llama())
    arguments = (str(source), "--quantization", "q4f16_1", "-o", str(target))
    with subprocess.Popen(
        [sys.executable, "-c", STOPS_AT, place, *arguments],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"here\n"
        child.kill()
    assert list(target.glob(".converting-*"))
    assert not (target / "tensor-cache.json").exists()
    done = run_cli("convert_weight", *arguments)
    assert done.returncode == 0, done.stderr
    write_json(target / "mlc-chat-config.json", mlc_config(tiny_llama(), "q4f16_1"))
    write_tokenizer(target)
    open_folder(target)
    assert find_tensors(target, verify=True, threads=available_cores())
    assert not list(target.glob(".*"))


def test_a_broken_checkpoint_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    write_hf_folder(tmp_path / "hf", tiny_llama())
    (tmp_path / "hf" / "model.safetensors").write_bytes(b"\xff" * 64)
    target = str(tmp_path / "mlc")
    done = run_cli("convert_weight", str(tmp_path / "hf"), "--quantization", "q0f16", "-o", target)
    assert done.returncode == 1
    assert "model.safetensors" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "mlc").exists()
