"""Choosing the device and the program that links."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlc_llm.compiler.target import c_compiler, choose_device
from mlc_llm.errors import BadConfig


@pytest.mark.parametrize("asked", ["auto", "cpu", "cpu:0"])
def test_the_cpu_is_found_and_the_choice_explained(asked: str) -> None:
    device = choose_device(asked, {"MLC_CPU_LEVEL": "generic"})
    assert device.kind == "cpu"
    assert "generic" in device.reason


def test_a_device_without_kernels_is_refused_with_advice() -> None:
    with pytest.raises(
        BadConfig, match=r"no kernels for device 'cuda:1'; the device must be cpu or auto"
    ):
        choose_device("cuda:1")


@pytest.mark.parametrize("asked", ["toaster", "cpu:", "", "cpu:x", "CPU"])
def test_a_device_nobody_knows_is_refused_with_the_known_ones(asked: str) -> None:
    with pytest.raises(BadConfig, match="auto, cuda"):
        choose_device(asked)


def test_the_compiler_is_taken_from_cc_or_the_path(tmp_path: Path) -> None:
    assert c_compiler({"PATH": str(tmp_path)}) is None
    for name in ("clang", "special"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert c_compiler({"PATH": str(tmp_path)}) == (str(tmp_path / "clang"),)
    assert c_compiler({"PATH": str(tmp_path), "CC": "special"}) == (str(tmp_path / "special"),)
    assert c_compiler({"PATH": str(tmp_path), "CC": "special -O1 '-g 1'"}) == (
        str(tmp_path / "special"), "-O1", "-g 1",
    )  # fmt: skip
    assert c_compiler({"PATH": str(tmp_path), "CC": "special 'open"}) is None
    assert c_compiler({"PATH": str(tmp_path), "CC": "absent"}) is None
