"""What `mlc_llm compile` cannot do is one line, said before the work where it can be known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlc_llm.commands import compile as command
from mlc_llm.compiler.job import LinkFailed
from mlc_llm.errors import BadConfig
from support.folders import tiny_llama, write_hf_folder


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model that no linker of this machine can make a library of."""

    def compile_in_child(*arguments: Any) -> None:
        raise LinkFailed("no space")

    monkeypatch.setattr(command, "compile_in_child", compile_in_child)
    monkeypatch.setattr(command, "c_compiler", lambda: ("cc", "-O1"))
    write_hf_folder(tmp_path / "hf", tiny_llama())
    return str(tmp_path / "hf")


def test_a_linker_that_fails_is_named(model: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"^cc cannot link a library \(no space\)$"):
        command.main([model, "-o", str(tmp_path / "lib" / "model.so")])
    assert list((tmp_path / "lib").iterdir()) == []


def test_a_place_that_takes_no_file_is_refused_before_anything_is_compiled(
    model: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "model.so"
    with pytest.raises(BadConfig, match=r"model\.so: cannot be written \(File exists\)"):
        command.main([model, "-o", str(output)])
