"""Packed matrix products against their NumPy twins, at every level this CPU has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.device import LEVELS, Kernel, filled
from mlc_llm.kernels import reference
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.linear_float import linear_float
from mlc_llm.kernels.cpu.linear_q4 import linear_q4

Array = NDArray[Any]
Product = Callable[[Array, Array | None], Array]
"""Rows [n, K] and a residual to rows [n, N]."""

SHAPES = [(64, 64), (105, 64), (172, 64), (16, 32), (200, 96), (512, 160)]
"""(rows, cols) of matrices, most of them not whole blocks."""


def matrix(rows: int, cols: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, cols), dtype=np.float32)


def float_product(level: Level, weights: str, w: Array, num_rows: int, epilogue: str) -> Product:
    packed = reference.pack_float(w.astype(np.float32 if weights == "f32" else np.float16))
    function = linear_float(level, weights, packed.shape[0], w.shape[1], num_rows, epilogue)
    kernel = Kernel(level, function)
    width = packed.shape[0] * 8 if epilogue == "silu_mul" else num_rows

    def run(x: Array, residual: Array | None) -> Array:
        more = [] if residual is None else [residual]
        return kernel(x, packed, *more, outputs=[filled(x.shape[0], width)])[0]

    return run


def q4_product(level: Level, w: Array, num_rows: int, epilogue: str) -> Product:
    words, scales = reference.pack_q4(*reference.quantize_q4(w))
    kernel = Kernel(level, linear_q4(level, words.shape[0], w.shape[1], num_rows, epilogue))
    width = words.shape[0] * 8 if epilogue == "silu_mul" else num_rows

    def run(x: Array, residual: Array | None) -> Array:
        more = [] if residual is None else [residual]
        activations = reference.quantize(x)
        out = [filled(x.shape[0], width)]
        return kernel(*activations, words, scales, *more, outputs=out)[0]

    return run


def product(level: Level, weights: str, w: Array, num_rows: int, epilogue: str) -> Product:
    if weights == "q4":
        return q4_product(level, w, num_rows, epilogue)
    return float_product(level, weights, w, num_rows, epilogue)


def twin(
    weights: str, w: Array, x: Array, num_rows: int, epilogue: str, residual: Array | None
) -> Array:
    if weights == "q4":
        words, scales = reference.pack_q4(*reference.quantize_q4(w))
        xq, xs, _ = reference.quantize(x)
        n = x.shape[0]
        return reference.linear_q4(xq, xs, words, scales, n, num_rows, epilogue, residual)
    packed = reference.pack_float(w.astype(np.float32 if weights == "f32" else np.float16))
    return reference.linear_float(x, packed, num_rows, epilogue, residual)


@pytest.mark.parametrize("weights", ["f32", "f16", "q4"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_a_product_equals_its_twin(level: Level, weights: str, rows: int, cols: int) -> None:
    w = matrix(rows, cols)
    run = product(level, weights, w, rows, "store")
    for n in (1, 3, 8, 21):
        x = matrix(n, cols, seed=n)
        expected = twin(weights, w, x, rows, "store", None)
        np.testing.assert_allclose(run(x, None), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("weights", ["f32", "f16", "q4"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rows", [64, 105])
def test_add_puts_the_product_on_the_residual(level: Level, weights: str, rows: int) -> None:
    w, x, residual = matrix(rows, 192), matrix(11, 192, seed=1), matrix(11, rows, seed=2)
    actual = product(level, weights, w, rows, "add")(x, residual)
    expected = twin(weights, w, x, rows, "add", residual)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("weights", ["f32", "f16", "q4"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("intermediate", [16, 172])
def test_silu_mul_gates_alternate_blocks(level: Level, weights: str, intermediate: int) -> None:
    gate, up = matrix(intermediate, 64), matrix(intermediate, 64, seed=3)
    w, x = reference.alternate_gate_up(gate, up), matrix(13, 64, seed=4)
    actual = product(level, weights, w, w.shape[0], "silu_mul")(x, None)
    expected = twin(weights, w, x, w.shape[0], "silu_mul", None)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)
    assert not actual[:, intermediate:].any()
    if weights == "f32":
        plain = reference.silu(x.astype(np.float64) @ gate.T) * (x.astype(np.float64) @ up.T)
        np.testing.assert_allclose(actual[:, :intermediate], plain, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("epilogue", ["store", "add", "silu_mul"])
@pytest.mark.parametrize("weights", ["f32", "f16", "q4"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_row_has_the_same_bits_in_every_batch(level: Level, weights: str, epilogue: str) -> None:
    rows = 96 if epilogue == "silu_mul" else 105
    w, x = matrix(rows, 96), matrix(64, 96, seed=5)
    run = product(level, weights, w, rows, epilogue)
    residual = matrix(64, rows, seed=6) if epilogue == "add" else None

    def part(begin: int, end: int) -> Array:
        return run(x[begin:end], None if residual is None else residual[begin:end])

    alone = np.concatenate([part(i, i + 1) for i in range(64)])
    for n in (*range(2, 20), 64):
        assert np.array_equal(part(0, n), alone[:n])
        assert np.array_equal(part(64 - n, 64), alone[64 - n :])


@pytest.mark.parametrize("weights", ["f32", "q4"])
def test_a_product_spread_over_threads_has_the_same_bits(weights: str) -> None:
    """Few rows of this matrix stay on the calling thread, many do not."""
    w, x = matrix(512, 256), matrix(24, 256, seed=7)
    run = product(Level.GENERIC, weights, w, 512, "store")
    alone = np.concatenate([run(x[i : i + 1], None) for i in range(24)])
    assert np.array_equal(run(x, None), alone)


@pytest.mark.parametrize("level", LEVELS)
def test_float16_weights_are_widened_exactly(level: Level) -> None:
    """An identity of activations reads the matrix back: subnormals, zeros of both signs, extremes."""
    bits = np.random.default_rng(8).integers(0, 1 << 16, (64, 32), dtype=np.uint16)
    bits[(bits & 0x7C00) == 0x7C00] = 0x8001
    w = bits.view(np.float16)
    actual = product(level, "f16", w, 64, "store")(np.eye(32, dtype=np.float32), None)
    assert np.array_equal(actual, w.astype(np.float32).T)


@pytest.mark.parametrize("level", LEVELS)
def test_the_largest_activations_and_weights_do_not_overflow(level: Level) -> None:
    w, x = np.ones((16, 64), np.float32), np.ones((2, 64), np.float32)
    w[::2] = -1
    x[1] = -1
    actual = product(level, "q4", w, 16, "store")(x, None)
    expected = twin("q4", w, x, 16, "store", None)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_silu_is_right_far_from_zero(level: Level) -> None:
    gates = np.array([-200, -88, -87, -30, -1, -1e-6, 0, 1e-6, 1, 30, 88, 200], np.float32)
    w = reference.alternate_gate_up(
        np.eye(1, 32, dtype=np.float32), np.eye(1, 32, dtype=np.float32)
    )
    w[16] = 0
    w[16, 1] = 1  # up reads column 1
    x = np.zeros((gates.size, 32), np.float32)
    x[:, 0], x[:, 1] = gates, 1
    actual = product(level, "f32", w, w.shape[0], "silu_mul")(x, None)[:, 0]
    expected = gates.astype(np.float64) / (1 + np.exp(-gates.astype(np.float64)))
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-35)
