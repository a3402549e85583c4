"""The compiled search for scales of 4-bit groups against its NumPy twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.device import LEVELS, Kernel, filled
from mlc_llm.kernels.cpu.closest import can_search, closest
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.quantization.search import quantize_closest

Array = NDArray[Any]

ABLE = [level for level in LEVELS if can_search(Level(level.id))]


def groups(count: int, seed: int = 0) -> Array:
    """Values of float16, of many sizes and with zeros of both signs."""
    rng = np.random.default_rng(seed)
    sizes = np.exp2(rng.integers(-30, 12, (count, 1)).astype(np.float64))
    values = rng.standard_normal((count, 32)) * rng.random((count, 32)) ** 2 * sizes
    values[rng.random((count, 32)) < 0.05] = -0.0
    values[:3] = [[0.0], [-0.0], [2.0**-24]]
    values[3] = rng.integers(-7, 9, 32)
    return values.astype(np.float16).astype(np.float32)


def search(kernel: Kernel, values: Array) -> tuple[Array, Array]:
    """Scales and words of groups [n, 32]."""
    n = len(values)
    scales, words, _ = kernel.run(
        filled(n, dtype="float16"), filled(4 * n, dtype="int32"), values.reshape(-1)
    )
    return scales, words.view(np.uint32).reshape(n, 4)


@pytest.mark.parametrize("level", ABLE)
def test_scales_and_codes_are_those_of_the_twin_bit_for_bit(level: Level) -> None:
    kernel = Kernel(level, closest())
    for count in (16, 4096):
        values = groups(count, seed=count)
        scales, words = search(kernel, values)
        expected = quantize_closest(values)
        assert scales.tobytes() == expected.scales.tobytes()
        assert np.array_equal(words, expected.words)


@pytest.mark.parametrize("level", ABLE)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_group_with_a_value_that_is_not_finite_is_told_by_its_scale(
    level: Level, bad: float
) -> None:
    kernel = Kernel(level, closest())
    values = groups(32)
    values[np.arange(0, 32, 2), np.arange(0, 32, 2)] = bad
    scales, _ = search(kernel, values)
    assert np.array_equal(np.isfinite(scales), np.arange(32) % 2 == 1)
