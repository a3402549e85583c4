"""What other families than Llama ask of the kernels, against NumPy, at every level this CPU has."""

from __future__ import annotations

from math import erf
from typing import Any

import numpy as np
import pytest

from kernels.device import LEVELS, Array, Kernel, filled, quantized_outputs
from mlc_llm.kernels import reference
from mlc_llm.kernels.cpu.embed import embed, prompt_ends
from mlc_llm.kernels.cpu.epilogue import Epilogue
from mlc_llm.kernels.cpu.kv_format import KvFormat
from mlc_llm.kernels.cpu.layer_norm import layer_norm, layer_norm_quantize
from mlc_llm.kernels.cpu.level import Level, detect
from mlc_llm.kernels.cpu.linear_float import linear_float
from mlc_llm.kernels.cpu.linear_grouped import linear_grouped
from mlc_llm.kernels.cpu.norm import rms_norm_add
from mlc_llm.kernels.cpu.quantize import quantize
from mlc_llm.kernels.cpu.rope import rope_append
from mlc_llm.kernels.cpu.rope_heads import LOG2_E, Rotation
from mlc_llm.quantization.scheme import CODES

N, ROWS, COLS = 9, 41, 72
EPS = 1e-5


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def gelu(x: Array) -> Array:
    found: Array = x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2
    return found


def gelu_tanh(x: Array) -> Array:
    found: Array = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return found


ACTIVATIONS = {"silu": reference.silu, "gelu": gelu, "gelu_tanh": gelu_tanh}
BEST_SILU, BEST_GELU, BEST_TANH = ((detect({}), name) for name in ACTIVATIONS)


def with_each(case: object) -> list[Any]:
    """This case at every level; what only differs in where values come from is seen at one."""
    return [pytest.param(*level.values, case, marks=level.marks) for level in LEVELS]


@pytest.mark.parametrize(("level", "epilogue"), [*with_each("gelu"), BEST_SILU, BEST_TANH])
def test_a_plain_mlp_adds_its_bias_and_is_activated(level: Level, epilogue: Epilogue) -> None:
    w, bias, x = normal(ROWS, COLS), normal(ROWS, seed=1), 3 * normal(N, COLS, seed=2)
    packed = reference.pack_float(w)
    kernel = Kernel(level, linear_float(level, "f32", len(packed), COLS, ROWS, epilogue, True))
    (y,) = kernel(x, packed, bias, outputs=[filled(N, ROWS)])
    expected = ACTIVATIONS[epilogue](x.astype(np.float64) @ w.T + bias)
    np.testing.assert_allclose(y, expected, rtol=2e-5, atol=5e-5)


@pytest.mark.parametrize(("level", "activation"), [*with_each("gelu_tanh"), BEST_GELU])
def test_a_gated_mlp_is_activated_as_its_family_does(level: Level, activation: str) -> None:
    gate, up, x = normal(40, COLS), normal(40, COLS, seed=1), normal(N, COLS, seed=2)
    packed = reference.pack_float(reference.alternate_gate_up(gate, up))
    epilogue: Epilogue = "gelu_mul" if activation == "gelu" else "gelu_tanh_mul"
    kernel = Kernel(level, linear_float(level, "f32", len(packed), COLS, 80, epilogue))
    (y,) = kernel(x, packed, outputs=[filled(N, 64)])
    wide = x.astype(np.float64)
    expected = ACTIVATIONS[activation](wide @ gate.T) * (wide @ up.T)
    np.testing.assert_allclose(y[:, :40], expected, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("level", LEVELS)
def test_logits_are_capped_and_a_nan_stays_one(level: Level) -> None:
    """Else a request whose model has gone wrong would go on with made-up words."""
    cap, codes = 5.0, CODES["q4"]
    packed = reference.pack_q4(*reference.quantize_q4(normal(ROWS, COLS)))
    x, bias = normal(N, COLS, seed=2), normal(ROWS, seed=3)
    x[3, 7] = np.nan
    sizes = (len(packed[0]), COLS, ROWS, "store", True, cap)
    kernel = Kernel(level, linear_grouped(level, codes, *sizes))
    rounded = Kernel(level, quantize(level, COLS, codes))(x, outputs=quantized_outputs(N, COLS))
    (y,) = kernel(*rounded, *packed, bias, outputs=[filled(N, ROWS)])
    rows = reference.dequantize(rounded[0], rounded[1])[:N]
    sums = rows @ reference.unpack_q4(*packed)[:ROWS].astype(np.float64).T + bias
    assert np.isnan(y[3]).all()
    clean = np.arange(N) != 3
    np.testing.assert_allclose(y[clean], (cap * np.tanh(sums / cap))[clean], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("level", "bias"), [*with_each(True), (detect({}), False)])
def test_layer_norm_takes_the_mean_off(level: Level, bias: bool) -> None:
    width = 96
    weight, added = normal(width), normal(width, seed=1)
    more = [added] if bias else []
    norm = Kernel(level, layer_norm(level, width, EPS, bias))
    fused = Kernel(level, layer_norm_quantize(level, width, EPS, bias, CODES["q8"]))
    round_off = Kernel(level, quantize(level, width, CODES["q8"]))
    x = normal(N, width, seed=2) + 3
    (y,) = norm(x, weight, *more, outputs=[filled(N, width)])
    wide = x.astype(np.float64)
    centred = wide - wide.mean(1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + EPS) * weight
    np.testing.assert_allclose(y, expected + (added if bias else 0), rtol=1e-5, atol=1e-5)
    apart = round_off(y, outputs=quantized_outputs(N, width))
    together = fused(x, weight, *more, outputs=quantized_outputs(N, width))
    for first, second in zip(apart, together, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("level", LEVELS)
def test_a_norm_after_a_layer_is_added_to_the_residual(level: Level) -> None:
    width = 72
    x, weight, residual = normal(N, width), normal(width, seed=1), normal(N, width, seed=2)
    kernel = Kernel(level, rms_norm_add(level, width, EPS))
    (y,) = kernel(x, weight, residual, outputs=[filled(N, width)])
    expected = residual + reference.rms_norm(x, weight, EPS, width)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("level", "add"), [*with_each(True), (detect({}), False)])
def test_embeddings_are_scaled_and_added(level: Level, add: bool) -> None:
    packed = reference.pack_q4(*reference.quantize_q4(normal(ROWS, COLS)))
    ids = np.arange(N, dtype=np.int32)[::-1].copy()
    residual = normal(N, COLS, seed=1)
    kernel = Kernel(level, embed(level, "q4", len(packed[0]), COLS, 7.5, add))
    (y,) = kernel(ids, *packed, *([residual] if add else []), outputs=[filled(N, COLS)])
    expected = 7.5 * reference.unpack_q4(*packed)[ids, :COLS] + (residual if add else 0)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_rows_of_an_encoder_see_the_end_of_their_prompt() -> None:
    tiles = np.array([[0, 2, 0, 1], [2, 1, 0, 1], [3, 1, 4, 1], [4, 2, 1, 1]], np.int32)
    positions = np.array([0, 1, 2, 0, 0, 1], np.int32)
    outputs = [filled(6, dtype="int32"), filled(6, dtype="int32")]
    ends, types = Kernel(Level.GENERIC, prompt_ends())(tiles, positions, outputs=outputs)
    np.testing.assert_array_equal(ends, [2, 2, 2, 0, 1, 1])
    assert not types.any()


HEADS, KV_HEADS, HEAD_DIM = 6, 2, 40
ROTATIONS = {
    "another table, heads normalised": Rotation(40, 80, 40, 0.3, "head", EPS),
    "a part, rows normalised": Rotation(16, 48, 16, None, "row", EPS),
}


def turned(heads: Array, angles: Array, dim: int) -> Array:
    """Heads [n, h, D] whose first `dim` columns are rotated by angles [n, dim], cos then sin."""
    cos, sin = np.split(angles[:, None], 2, axis=2)
    x, y = np.split(heads[:, :, :dim], 2, axis=2)
    return np.concatenate([x * cos - y * sin, y * cos + x * sin, heads[:, :, dim:]], axis=2)


def normalised(heads: Array, weight: Array, how: str) -> Array:
    """RMS norm of each head, or of all heads of a row together."""
    rows = heads if how == "head" else heads.reshape(len(heads), 1, -1)
    scaled = rows / np.sqrt((rows**2).mean(2, keepdims=True) + EPS) * weight
    found: Array = scaled.reshape(heads.shape)
    return found


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rotation", ROTATIONS.values(), ids=ROTATIONS.keys())
def test_heads_are_normalised_and_turned_as_their_family_does(
    level: Level, rotation: Rotation
) -> None:
    count, how = HEADS + KV_HEADS, rotation.qk_norm
    qkv = normal(N, (count + KV_HEADS) * HEAD_DIM)
    rope = normal(30, rotation.width or HEAD_DIM, seed=1)
    positions = np.arange(3, 3 + N, dtype=np.int32)
    slots = np.random.default_rng(2).permutation(48)[:N].astype(np.int32)
    heads = qkv.astype(np.float64).reshape(N, -1, HEAD_DIM)
    queries, keys, values = np.split(heads, [HEADS, count], axis=1)
    norms: list[Array] = []
    if how is not None:
        sizes = (1, 1) if how == "head" else (HEADS, KV_HEADS)
        norms = [normal(size * HEAD_DIM, seed=3 + size) for size in sizes]
        queries = normalised(queries, norms[0], how)
        keys = normalised(keys, norms[1], how)
    dim = rotation.rope_dim or HEAD_DIM
    angles = rope[positions, rotation.first : rotation.first + dim]
    queries, keys = turned(queries, angles, dim), turned(keys, angles, dim)
    scale = HEAD_DIM**-0.5 if rotation.scale is None else rotation.scale
    sizes_of = (HEADS, KV_HEADS, HEAD_DIM, "float32")
    pool = filled(1, 3, KV_HEADS, 2, 16 * 48)
    kernel = Kernel(level, rope_append(level, *sizes_of, rotation))
    assert KvFormat(level, "float32").factor_dtype == "float32"
    *_, pool, _, q = kernel.run(qkv, rope, positions, slots, *norms, pool, 0, filled(N, HEADS, 48))
    np.testing.assert_allclose(q[..., :HEAD_DIM], queries * scale * LOG2_E, rtol=1e-5, atol=1e-5)
    page, slot = np.divmod(slots, 16)
    stored = pool[0, :, :, 0].reshape(3, KV_HEADS, 48, 16)[page, :, :HEAD_DIM, slot]
    np.testing.assert_allclose(stored, keys, rtol=1e-5, atol=1e-5)
    stored = pool[0, :, :, 1].reshape(3, KV_HEADS, 16, 48)[page, :, slot, :HEAD_DIM]
    np.testing.assert_allclose(stored, values, rtol=1e-6)
