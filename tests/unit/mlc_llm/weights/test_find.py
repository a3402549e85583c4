"""Where a folder has weights in several formats, one of them is read, or the one that is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlc_llm.errors import BadModel
from mlc_llm.weights.source import read_rows
from mlc_llm.weights.sources.find import SourceFormat, find_tensors
from support import torch_files
from support.folders import encode, write_json, write_safetensors


def matrix(value: float) -> dict[str, tuple[str, np.ndarray]]:
    return {"a.weight": encode(np.full((2, 3), value, np.float32), "F32")}


@pytest.fixture
def both(tmp_path: Path) -> Path:
    write_safetensors(tmp_path / "model.safetensors", matrix(1))
    torch_files.write(tmp_path / "pytorch_model.bin", matrix(2))
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "value"), [("auto", 1), ("huggingface-safetensor", 1), ("huggingface-torch", 2)]
)
def test_the_format_that_is_named_is_read(wanted: SourceFormat, value: float, both: Path) -> None:
    assert (read_rows(find_tensors(both, wanted)["a.weight"], 0, 2) == value).all()


def test_a_format_that_is_not_there_is_refused(both: Path) -> None:
    (both / "pytorch_model.bin").unlink()
    with pytest.raises(BadModel, match="no weights of the format huggingface-torch; one of"):
        find_tensors(both, "huggingface-torch")


@pytest.mark.parametrize("config", [{}, {"quantization_config": {"quant_method": "gptq"}}])
def test_weights_that_are_no_awqs_are_refused_as_such(
    config: dict[str, object], both: Path
) -> None:
    write_json(both / "config.json", config)
    with pytest.raises(BadModel, match=r"config\.json: does not say that the weights are AWQ's"):
        find_tensors(both, "awq")
