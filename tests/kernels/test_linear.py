"""Packed matrix products against their NumPy twins, at every level this CPU has."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.device import LEVELS, Kernel, filled, quantized_outputs
from mlc_llm.kernels import reference
from mlc_llm.kernels.cpu.level import Level, detect
from mlc_llm.kernels.cpu.linear_float import linear_float
from mlc_llm.kernels.cpu.linear_grouped import gated_grouped, linear_grouped
from mlc_llm.kernels.cpu.matmul import CHUNK_ROWS, SMALL_PRODUCT
from mlc_llm.kernels.cpu.quantize import quantize
from mlc_llm.quantization.scheme import CODES

Array = NDArray[Any]
Product = Callable[[Array, Array | None], Array]
"""Rows [n, K] and a residual to rows [n, N]."""

ROWS, COLS = 105, 96
"""A matrix of more than one panel whose last block is not whole."""

INTERMEDIATE = 40
"""Rows of gate and of up: padding in the last block of each, and blocks of nothing else."""

EVERYWHERE = [pytest.param(*level.values, ROWS, COLS, marks=level.marks) for level in LEVELS]
BEST = [pytest.param(detect({}), *shape) for shape in [(16, 32), (172, 64), (512, 20), (30, 160)]]


def matrix(rows: int, cols: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, cols), dtype=np.float32)


def gate_up(seed: int = 0) -> Array:
    gate, up = matrix(INTERMEDIATE, COLS, seed), matrix(INTERMEDIATE, COLS, seed + 1)
    return reference.alternate_gate_up(gate, up)


@cache
def compiled(
    level: Level, weights: str, num_blocks: int, cols: int, num_rows: int, epilogue: Any
) -> Kernel:
    kind: Any = weights
    if kind in CODES:
        sizes = (num_blocks, cols, num_rows)
        return Kernel(level, linear_grouped(level, CODES[kind], *sizes, epilogue))
    return Kernel(level, linear_float(level, kind, num_blocks, cols, num_rows, epilogue))


def packed(weights: str, w: Array) -> tuple[Array, ...]:
    if weights == "q4":
        return reference.pack_q4(*reference.quantize_q4(w))
    if weights == "q8":
        return reference.pack_q8(*reference.quantize_q8(w))
    return (reference.pack_float(w.astype(np.float32 if weights == "f32" else np.float16)),)


def rows_for(weights: str, x: Array) -> tuple[Array, ...]:
    """Rows of activations as a product with such weights takes them."""
    kind: Any = weights
    return reference.quantize(x, CODES[kind].zero) if kind in CODES else (x,)


def product(level: Level, weights: str, w: Array, epilogue: str) -> Product:
    tensors = packed(weights, w)
    num_blocks, (num_rows, cols) = tensors[0].shape[0], w.shape
    kernel = compiled(level, weights, num_blocks, cols, num_rows, epilogue)
    width = num_blocks * 8 if epilogue == "silu_mul" else num_rows

    def run(x: Array, residual: Array | None) -> Array:
        rows = rows_for(weights, x)
        more = [] if residual is None else [residual]
        return kernel(*rows, *tensors, *more, outputs=[filled(x.shape[0], width)])[0]

    return run


def twin(weights: str, w: Array, x: Array, epilogue: str, residual: Array | None) -> Array:
    num_rows = w.shape[0]
    if weights in CODES:
        xq, xs, _ = reference.quantize(x)
        more = (x.shape[0], num_rows, epilogue, residual)
        return reference.linear_grouped(xq, xs, *packed(weights, w), *more)
    return reference.linear_float(x, *packed(weights, w), num_rows, epilogue, residual)


@pytest.mark.parametrize("weights", ["f32", "f16", "q4", "q8"])
@pytest.mark.parametrize(("level", "rows", "cols"), EVERYWHERE + BEST)
def test_a_product_equals_its_twin(level: Level, weights: str, rows: int, cols: int) -> None:
    w = matrix(rows, cols)
    run = product(level, weights, w, "store")
    for n in (1, 3, 8, 21):
        x = matrix(n, cols, seed=n)
        expected = twin(weights, w, x, "store", None)
        np.testing.assert_allclose(run(x, None), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("weights", ["f32", "f16", "q4", "q8"])
@pytest.mark.parametrize("level", LEVELS)
def test_add_puts_the_product_on_the_residual(level: Level, weights: str) -> None:
    w, x, residual = matrix(ROWS, COLS), matrix(11, COLS, seed=1), matrix(11, ROWS, seed=2)
    actual = product(level, weights, w, "add")(x, residual)
    expected = twin(weights, w, x, "add", residual)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("weights", ["f32", "f16", "q4", "q8"])
@pytest.mark.parametrize("level", LEVELS)
def test_silu_mul_gates_alternate_blocks(level: Level, weights: str) -> None:
    w, x = gate_up(), matrix(13, COLS, seed=4)
    actual = product(level, weights, w, "silu_mul")(x, None)
    expected = twin(weights, w, x, "silu_mul", None)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)
    assert not actual[:, INTERMEDIATE:].any()


@pytest.mark.parametrize("weights", ["q4", "q8"])
@pytest.mark.parametrize("level", LEVELS)
def test_gated_rows_are_quantized_as_quantize_does_bit_for_bit(level: Level, weights: Any) -> None:
    w, codes = packed(weights, gate_up()), CODES[weights]
    blocks = w[0].shape[0]
    kernel = Kernel(level, gated_grouped(level, codes, blocks, COLS, "silu_mul"))
    gated = product(level, weights, gate_up(), "silu_mul")
    round_off = Kernel(level, quantize(level, blocks * 8, codes))
    for n in (1, 7, 8, 21):
        x = matrix(n, COLS, seed=n)
        outputs = quantized_outputs(n, blocks * 8)
        apart = round_off(gated(x, None), outputs=outputs)
        together = kernel.run(*rows_for(weights, x), *w, n, *outputs)[-3:]
        for first, second in zip(apart, together, strict=True):
            np.testing.assert_array_equal(first, second)  # rows past n: untouched in both


def test_a_gate_up_matrix_is_silu_of_gate_times_up() -> None:
    x = matrix(5, COLS, seed=4).astype(np.float64)
    gate, up = matrix(INTERMEDIATE, COLS), matrix(INTERMEDIATE, COLS, seed=1)
    plain = reference.silu(x @ gate.T) * (x @ up.T)
    rows = twin("f32", gate_up(), x, "silu_mul", None)
    np.testing.assert_allclose(rows[:, :INTERMEDIATE], plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("epilogue", ["store", "add", "silu_mul"])
@pytest.mark.parametrize("weights", ["f32", "f16", "q4", "q8"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_row_has_the_same_bits_in_every_batch(level: Level, weights: str, epilogue: str) -> None:
    w = gate_up() if epilogue == "silu_mul" else matrix(ROWS, COLS)
    run = product(level, weights, w, epilogue)
    x = matrix(64, COLS, seed=5)
    residual = matrix(64, ROWS, seed=6) if epilogue == "add" else None

    def part(begin: int, end: int) -> Array:
        return run(x[begin:end], None if residual is None else residual[begin:end])

    alone = np.concatenate([part(i, i + 1) for i in range(64)])
    for n in (*range(2, 20), 64):
        assert np.array_equal(part(0, n), alone[:n])
        assert np.array_equal(part(64 - n, 64), alone[64 - n :])


@pytest.mark.parametrize("weights", ["f32", "q4"])
def test_a_product_spread_over_threads_has_the_same_bits(weights: str) -> None:
    """One row of this matrix stays on the calling thread, all together do not."""
    w, x = matrix(512, 256), matrix(24, 256, seed=7)
    assert w.size < SMALL_PRODUCT < 24 * w.size
    run = product(detect({}), weights, w, "store")
    alone = np.concatenate([run(x[i : i + 1], None) for i in range(24)])
    assert np.array_equal(run(x, None), alone)


@pytest.mark.parametrize("weights", ["f32", "q4"])
@pytest.mark.parametrize("level", [LEVELS[0], Level.GENERIC], ids=str)
def test_rows_have_the_same_bits_in_chunks_of_any_height(level: Level, weights: str) -> None:
    w, x = matrix(ROWS, COLS), matrix(3 * CHUNK_ROWS + 1, COLS, seed=8)
    run = product(level, weights, w, "store")
    part = CHUNK_ROWS - 1
    apart = [run(x[i : i + part], None) for i in range(0, len(x), part)]
    for n in (0, CHUNK_ROWS, CHUNK_ROWS + 1, 2 * CHUNK_ROWS + 3, len(x)):
        assert np.array_equal(run(x[:n], None), np.concatenate(apart)[:n])


@pytest.mark.parametrize("level", LEVELS)
def test_float16_weights_are_widened_exactly(level: Level) -> None:
    """An identity of activations reads the matrix back: subnormals, extremes, both zeros."""
    bits = np.random.default_rng(8).integers(0, 1 << 16, (ROWS, COLS), dtype=np.uint16)
    bits[(bits & 0x7C00) == 0x7C00] = 0x8001  # infinities and NaN are no weights
    w = bits.view(np.float16)
    actual = product(level, "f16", w, "store")(np.eye(COLS, dtype=np.float32), None)
    assert np.array_equal(actual, w.astype(np.float32).T)


@pytest.mark.parametrize("weights", ["q4", "q8"])
@pytest.mark.parametrize("level", LEVELS)
def test_the_largest_activations_and_weights_do_not_overflow(level: Level, weights: str) -> None:
    w, x = np.ones((ROWS, COLS), np.float32), np.ones((2, COLS), np.float32)
    w[::2], x[1] = -1, -1
    actual = product(level, weights, w, "store")(x, None)
    np.testing.assert_allclose(actual, twin(weights, w, x, "store", None), rtol=1e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_silu_is_right_far_from_zero(level: Level) -> None:
    gates = np.array([-200, -88, -87, -30, -1, -1e-6, 0, 1e-6, 1, 30, 88, 200], np.float32)
    w = np.zeros_like(gate_up())
    w[0, 0] = 1  # the first row of gate reads column 0
    w[16, 1] = 1  # the first row of up reads column 1
    x = np.zeros((gates.size, COLS), np.float32)
    x[:, 0], x[:, 1] = gates, 1
    actual = product(level, "f32", w, "silu_mul")(x, None)[:, 0]
    expected = gates.astype(np.float64) / (1 + np.exp(-gates.astype(np.float64)))
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-35)
