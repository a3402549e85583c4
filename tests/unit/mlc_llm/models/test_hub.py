"""What is fetched from the hub, when, and what is left when it goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlc_llm.errors import BadConfig, BadModel
from mlc_llm.models import hub
from mlc_llm.models.resolve import resolve_model
from support import gguf_files
from support.fake_hub import FakeHub
from support.folders import tiny_llama

LARGE = bytes(range(256)) * (80 << 10)
"""More than the package writes to the disk at a time."""
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": LARGE,
    "README.md": b"words",
    "training_args.bin": b"code",
    "onnx/model.onnx": b"another format",
}
MLC = {
    "mlc-chat-config.json": b"{}",
    "ndarray-cache.json": b"{}",
    "params_shard_0.bin": b"weights",
    "params_shard_1.bin": b"weights too",
    "evil.py": b"code",
}


@pytest.fixture
def the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub of two models that HF_ENDPOINT names, and a home of our own."""
    monkeypatch.setenv("MLC_LLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("MLC_LLM_READONLY_WEIGHT_CACHE", hub.POLICY_VARIABLE, "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    found = FakeHub({"me/model": FILES, "me/mlc": MLC, "me/ggufs": {"a.gguf": b"", "b.gguf": b""}})
    with found.serving() as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield found


Policy = Callable[[str], None]


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> Policy:
    return lambda word: monkeypatch.setenv(hub.POLICY_VARIABLE, word)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_model_is_fetched_once_into_mlcs_cache(the_hub: FakeHub, tmp_path: Path) -> None:
    folder = resolve_model("HF://me/model")
    assert folder == tmp_path / "home/model_weights/hf/me/model"
    assert names(folder) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "model.safetensors").read_bytes() == LARGE
    asked = len(the_hub.requests)
    assert resolve_model("https://huggingface.co/me/model") == folder
    assert len(the_hub.requests) == asked


def test_of_an_mlc_model_its_shards_are_fetched_and_no_code(the_hub: FakeHub) -> None:
    assert names(resolve_model("HF://me/mlc")) == sorted(set(MLC) - {"evil.py"})


def test_an_interrupted_download_is_gone_on_with(the_hub: FakeHub, tmp_path: Path) -> None:
    the_hub.break_after["model.safetensors"] = len(LARGE) * 3 // 4
    folder = tmp_path / "home/model_weights/hf/me/model"
    assert resolve_model("HF://me/model") == folder
    assert (folder / "model.safetensors").read_bytes() == LARGE
    spans = [span for _, path, span in the_hub.requests if path.endswith(".safetensors")]
    assert any(span and not span.startswith("bytes=0-") for span in spans)
    assert not folder.with_name(".model.part").exists()


@pytest.mark.parametrize("word", ["OFF", "READONLY"])
def test_what_must_not_be_fetched_is_only_looked_for(
    word: str, the_hub: FakeHub, policy: Policy, tmp_path: Path
) -> None:
    policy(word)
    with pytest.raises(BadModel, match=f"{hub.POLICY_VARIABLE}={word} forbids") as raised:
        resolve_model("HF://me/model")
    assert str(tmp_path / "home/model_weights/hf/me/model") in raised.value.message
    policy("ON")
    folder = resolve_model("HF://me/model")
    asked = len(the_hub.requests)
    policy(word)
    assert resolve_model("HF://me/model") == folder
    assert len(the_hub.requests) == asked


def test_redo_fetches_again_and_replaces(the_hub: FakeHub, policy: Policy) -> None:
    folder = resolve_model("HF://me/model")
    (folder / "old").touch()
    (folder / "config.json").write_bytes(b'{"changed": 1}')
    policy("REDO")
    assert resolve_model("HF://me/model") == folder
    assert not (folder / "old").exists()
    assert (folder / "config.json").read_bytes() == b"{}"


def test_an_unknown_policy_is_refused(the_hub: FakeHub, policy: Policy) -> None:
    policy("SOMETIMES")
    with pytest.raises(BadConfig, match="SOMETIMES is not ON, OFF, REDO or READONLY"):
        resolve_model("HF://me/model")


def test_a_repository_that_is_not_there_leaves_nothing(the_hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="me/none: cannot be downloaded") as raised:
        resolve_model("HF://me/none")
    assert "\n" not in raised.value.message
    assert not (tmp_path / "home/model_weights/hf/me/none").exists()


def test_files_of_another_format_are_named(the_hub: FakeHub) -> None:
    for name in ("HF://me/ggufs", "HF://me/ggufs/c.gguf"):
        with pytest.raises(BadModel, match=r"name one of them, .* HF://me/ggufs/a.gguf, b.gguf"):
            resolve_model(name)


def test_one_gguf_file_is_fetched_and_no_other(the_hub: FakeHub, tmp_path: Path) -> None:
    made = gguf_files.write_llama(tmp_path / "x.gguf", tiny_llama())
    the_hub.repositories = {"me/ggufs": {"x.gguf": made.read_bytes(), "y.gguf": b"other"}}
    folder = resolve_model("HF://me/ggufs/x.gguf")
    kept = tmp_path / "home/model_weights/hf/me/ggufs"
    assert sorted(path.name for path in kept.iterdir()) == [".x.gguf.lock", "x.gguf"]
    assert (folder / "model.gguf").resolve() == kept / "x.gguf"
    asked = len(the_hub.requests)
    assert resolve_model("HF://me/ggufs/x.gguf") == resolve_model("HF://me/ggufs") == folder
    assert len(the_hub.requests) == asked


@pytest.mark.parametrize("word", ["OFF", "READONLY"])
def test_a_gguf_file_that_must_not_be_fetched_is_only_looked_for(
    word: str, the_hub: FakeHub, policy: Policy
) -> None:
    policy(word)
    with pytest.raises(BadModel, match=f"{hub.POLICY_VARIABLE}={word} forbids"):
        resolve_model("HF://me/ggufs/a.gguf")
    assert the_hub.requests == []


def test_no_network_is_one_line(the_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(BadModel, match="me/model: cannot be downloaded") as raised:
        resolve_model("HF://me/model")
    assert "\n" not in raised.value.message


def test_a_bare_name_never_asks_the_hub(the_hub: FakeHub) -> None:
    with pytest.raises(BadModel, match="no model folder was found"):
        resolve_model("me/model")
    assert the_hub.requests == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["model-1.safetensors", "pytorch_model.bin"], ["model-1.safetensors"]),
        (["pytorch_model-1.bin", "x.bin"], ["pytorch_model-1.bin"]),
        (["../model.safetensors"], []),
        ([".model.safetensors"], []),
        (["a/model.safetensors"], []),
        (["flax_model.msgpack"], []),
        (["model-1.safetensors", "consolidated.safetensors"], ["model-1.safetensors"]),
        (
            ["model.safetensors", "1_Pooling/config.json", "2_Dense/config.json"],
            ["1_Pooling/config.json", "model.safetensors"],
        ),
    ],
)
def test_only_plain_files_of_one_format_are_chosen(files: list[str], expected: list[str]) -> None:
    assert hub.chosen_files(files) == expected


@pytest.mark.parametrize("inner", ["", "Q4_0/", "a/b/"])
def test_a_gguf_file_in_parts_is_fetched_whole(
    inner: str, the_hub: FakeHub, tmp_path: Path
) -> None:
    arch = tiny_llama()
    values = {**gguf_files.model_values(arch), **gguf_files.toy_values()}
    made = gguf_files.write_parts(tmp_path, values, gguf_files.llama_tensors(arch), 2)
    files = {f"{inner}{path.name}": path.read_bytes() for path in made}
    the_hub.repositories = {"me/ggufs": {**files, "other.gguf": b""}}
    folder = resolve_model(f"HF://me/ggufs/{inner}{made[0].name}")
    kept = tmp_path / "home/model_weights/hf/me/ggufs" / inner
    assert sorted(path.name for path in kept.glob("*.gguf")) == [path.name for path in made]
    asked = len(the_hub.requests)
    assert resolve_model(f"HF://me/ggufs/{inner}{made[1].name}") == folder
    assert len(the_hub.requests) == asked


@pytest.mark.parametrize("name", ["../x.gguf", "a/../../x.gguf", "a//x.gguf", "./x.gguf"])
def test_a_file_outside_of_its_repository_is_refused(name: str, the_hub: FakeHub) -> None:
    with pytest.raises(BadModel, match="must name a file of a repository"):
        resolve_model(f"HF://me/ggufs/{name}")
    assert the_hub.requests == []
