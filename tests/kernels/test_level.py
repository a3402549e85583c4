"""Choosing the instruction set."""

from __future__ import annotations

import pytest

from mlc_llm.errors import BadConfig
from mlc_llm.kernels.cpu.level import REQUIRED_FLAGS, Level, detect
from mlc_llm.kernels.cpu.target import target


def test_the_best_level_whose_flags_are_all_there_is_chosen() -> None:
    for level in Level:
        assert detect({}, REQUIRED_FLAGS[level]) is level


def test_one_missing_flag_is_enough_to_step_down() -> None:
    flags = REQUIRED_FLAGS[Level.AVX512_VNNI]
    assert detect({}, flags - {"avx512bw"}) is Level.AVX2
    assert detect({}, flags - {"f16c"}) is Level.SSE4


def test_the_environment_can_force_a_lower_level() -> None:
    assert detect({"MLC_CPU_LEVEL": "avx2"}, REQUIRED_FLAGS[Level.AVX512_VNNI]) is Level.AVX2


@pytest.mark.parametrize("forced", ["", " "])
def test_an_empty_variable_forces_nothing(forced: str) -> None:
    assert detect({"MLC_CPU_LEVEL": forced}, REQUIRED_FLAGS[Level.AVX2]) is Level.AVX2


@pytest.mark.parametrize("forced", ["avx512_vnni", "sse9"])
def test_a_forced_level_the_cpu_lacks_or_nobody_knows_is_refused(forced: str) -> None:
    with pytest.raises(BadConfig, match=f"{forced} cannot be used.*avx2, sse4, generic"):
        detect({"MLC_CPU_LEVEL": forced}, REQUIRED_FLAGS[Level.AVX2])


def test_every_level_has_a_target_the_compiler_knows() -> None:
    for level in Level:
        assert target(level).kind.name == "llvm"
