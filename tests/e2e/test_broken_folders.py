"""A broken model folder ends start-up with one clear line and exit code 1."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mlc_llm.models.resolve import resolve_model
from support.server import run_cli


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _replace_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    document["model"]["vocab"] |= {f"more{i}": 1024 + i for i in range(49000)}
    path.write_text(json.dumps(document))


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _point_past_the_end(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    tensor = next(v for k, v in header.items() if k != "__metadata__")
    begin, end = tensor["data_offsets"]
    tensor["data_offsets"] = [begin + (1 << 40), end + (1 << 40)]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def _change_config(**fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


BREAKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no weights": (_remove("model.safetensors"), "model.safetensors"),
    "no tokenizer": (_remove("tokenizer.json"), "tokenizer.json"),
    "truncated": (_truncate, "model.safetensors"),
    "offset past the end": (_point_past_the_end, "model.safetensors"),
    "unknown architecture": (_change_config(model_type="mamba"), "mamba"),
    "wrong shape": (_change_config(intermediate_size=640), "mlp"),
    "another model's tokenizer": (_replace_tokenizer, "tokenizer.json: has 50"),
    "not JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_start_up_ends_with_one_line_that_names_the_fault(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resolve_model(None), folder)
    damage, word = BREAKS[name]
    damage(folder)
    done = run_cli("serve", str(folder), "--port", "0")
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 1, done.stdout + done.stderr
    assert word in lines[-1]
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_not_there_says_where_it_looked(tmp_path: Path) -> None:
    done = run_cli("serve", "no-such-model", MLC_LLM_HOME=str(tmp_path))
    assert done.returncode == 1
    assert "no-such-model" in done.stderr
    assert "Traceback" not in done.stderr
