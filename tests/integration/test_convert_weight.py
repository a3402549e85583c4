"""`mlc_llm convert_weight` with the compiled search for scales."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from mlc_llm.commands import convert_weight
from mlc_llm.kernels.cpu.closest import can_search
from mlc_llm.kernels.cpu.level import detect
from mlc_llm.quantization.floats import FloatArray
from mlc_llm.quantization.group import Quantized
from mlc_llm.quantization.search import Search, quantize_closest
from support.folders import tiny_llama, write_hf_folder


@pytest.fixture(autouse=True)
def no_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)


def converted(folder: Path, target: Path) -> dict[str, bytes]:
    """The files that the command writes."""
    arguments = [str(folder), "--quantization", "q4f16_1", "-o", str(target)]
    assert convert_weight.main(arguments) == 0
    return {path.name: path.read_bytes() for path in target.glob("*.bin")}


def test_a_large_model_is_converted_by_the_compiled_search_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hf_folder(tmp_path / "hf", tiny_llama())
    compiled: list[bool] = []

    def spy(weights: FloatArray, search: Search | None = None) -> Quantized:
        compiled.append(search is not None)
        return quantize_closest(weights, search)

    monkeypatch.setattr(convert_weight, "quantize_closest", spy)
    expected = converted(tmp_path / "hf", tmp_path / "small")
    assert not compiled
    monkeypatch.setattr(convert_weight, "LARGE", 0)
    assert converted(tmp_path / "hf", tmp_path / "large") == expected
    assert set(compiled) == {can_search(detect())}
