"""Row-wise kernels against their NumPy twins: norms, quantization, embedding, gathering."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.device import LEVELS, Kernel, filled, quantized_outputs
from mlc_llm.kernels import reference
from mlc_llm.kernels.cpu.embed import embed, take_rows
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.norm import rms_norm, rms_norm_quantize
from mlc_llm.kernels.cpu.quantize import quantize
from mlc_llm.quantization.scheme import CODES

Array = NDArray[Any]

EPS = 1e-5
WIDTHS = [64, 105, 8]
COUNTS = [1, 7, 8, 19]
"""Below and above the number of rows that makes a kernel parallel."""


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def padded(width: int) -> int:
    return -(-width // 32) * 32


def rows_of(outputs: list[Array], n: int) -> list[Array]:
    """The first n rows of quantized tiles, without the junk of the last tile."""
    return [np.moveaxis(a, 2, 1).reshape(-1, a.shape[1], *a.shape[3:])[:n] for a in outputs]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("width", WIDTHS)
def test_rms_norm_equals_its_twin_and_pads_with_zeros(level: Level, width: int) -> None:
    weight = normal(width)
    kernel = Kernel(level, rms_norm(level, width, padded(width), EPS))
    for n in COUNTS:
        x = normal(n, width, seed=n)
        (y,) = kernel(x, weight, outputs=[filled(n, padded(width))])
        np.testing.assert_allclose(y, reference.rms_norm(x, weight, EPS, padded(width)), rtol=2e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("width", WIDTHS)
def test_quantize_equals_its_twin_bit_for_bit(level: Level, width: int) -> None:
    kernel = Kernel(level, quantize(level, width, CODES["q4"]))
    for n in COUNTS:
        x = normal(n, width, seed=n)
        x[0, :32] = 0
        actual = rows_of(kernel(x, outputs=quantized_outputs(n, width)), n)
        for got, expected in zip(actual, rows_of(list(reference.quantize(x)), n), strict=True):
            assert np.array_equal(got, expected)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("width", [64, 105])
def test_rms_norm_quantize_is_quantize_of_rms_norm_bit_for_bit(level: Level, width: int) -> None:
    weight = normal(width)
    norm = Kernel(level, rms_norm(level, width, padded(width), EPS))
    round_off = Kernel(level, quantize(level, padded(width), CODES["q4"]))
    fused = Kernel(level, rms_norm_quantize(level, width, EPS, CODES["q4"]))
    for n in COUNTS:
        x = normal(n, width, seed=n)
        (y,) = norm(x, weight, outputs=[filled(n, padded(width))])
        apart = rows_of(round_off(y, outputs=quantized_outputs(n, width)), n)
        together = rows_of(fused(x, weight, outputs=quantized_outputs(n, width)), n)
        for first, second in zip(apart, together, strict=True):
            assert np.array_equal(first, second)


@pytest.mark.parametrize("level", LEVELS)
def test_a_nan_is_not_lost_by_quantization(level: Level) -> None:
    """Else a request that went wrong would go on with made-up numbers."""
    x = normal(3, 64)
    x[1, 40] = np.nan
    _, scales, _ = rows_of(
        Kernel(level, quantize(level, 64, CODES["q4"]))(x, outputs=quantized_outputs(3, 64)), 3
    )
    assert np.array_equal(np.isnan(scales), [[False, False], [False, True], [False, False]])


def test_quantized_activations_are_within_half_a_step() -> None:
    x = normal(9, 96)
    xq, xs, xc = reference.quantize(x)
    error = np.abs(reference.dequantize(xq, xs)[:9] - x)
    step = np.repeat(np.abs(x.reshape(9, 3, 32)).max(-1) / 127, 32, axis=1)
    assert (error <= 0.5001 * step).all()
    whole = np.ascontiguousarray(xq).view(np.int8).astype(int)
    assert np.array_equal(xc, -7 * whole.sum(-1))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("weights", ["f32", "f16", "q4", "q8"])
@pytest.mark.parametrize(("vocab", "hidden"), [(105, 64), (32, 72)])
def test_embed_reads_rows_of_the_packed_table_exactly(
    level: Level, weights: Any, vocab: int, hidden: int
) -> None:
    table = normal(vocab, hidden)
    packed: tuple[Array, ...]
    if weights in CODES:
        pack = reference.pack_q4 if weights == "q4" else reference.pack_q8
        codes = reference.quantize_q4 if weights == "q4" else reference.quantize_q8
        packed = pack(*codes(table))
        plain = reference.unpack_groups(*packed)
    else:
        packed = (reference.pack_float(table.astype("f4" if weights == "f32" else "f2")),)
        plain = reference.unpack_float(packed[0])
    kernel = Kernel(level, embed(level, weights, packed[0].shape[0], hidden))
    for n in COUNTS:
        ids = np.random.default_rng(n).integers(0, vocab, n, dtype=np.int32)
        ids[-1] = vocab - 1
        (y,) = kernel(ids, *packed, outputs=[filled(n, hidden)])
        assert np.array_equal(y, reference.embed(ids, plain, hidden))


@pytest.mark.parametrize("hidden", [64, 105, 8])
def test_take_rows_copies_the_rows_asked_for(hidden: int) -> None:
    x = normal(40, hidden)
    kernel = Kernel(Level.GENERIC, take_rows(hidden))
    for last in ([39], [0, 0, 5], list(range(40))):
        rows = np.array(last, np.int32)
        (y,) = kernel(x, rows, outputs=[filled(len(last), hidden)])
        assert np.array_equal(y, reference.take_rows(x, rows))


def test_packing_is_undone_by_unpacking() -> None:
    w = normal(105, 72)
    assert np.array_equal(reference.unpack_float(reference.pack_float(w))[:105, :72], w)
    nibbles, scales = reference.quantize_q4(w)
    whole = nibbles.reshape(105, 3, 32).astype(np.float32) - 7
    expected = (whole * scales.astype(np.float32)[..., None]).reshape(105, 96)
    matrix = reference.unpack_q4(*reference.pack_q4(nibbles, scales))
    assert np.array_equal(matrix[:105], expected)
    assert not matrix[105:].any()
