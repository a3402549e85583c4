"""The kernels of attention over latents against their NumPy twins, at every level this CPU has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.device import LEVELS, Kernel, filled
from mlc_llm.kernels import reference
from mlc_llm.kernels import reference_latent as twin
from mlc_llm.kernels.cpu.latent_append import latent_append
from mlc_llm.kernels.cpu.latent_attention import latent_attention
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.linear_heads import linear_heads
from mlc_llm.models.architecture import Latent
from mlc_llm.quantization.scheme import KvDtype

Array = NDArray[Any]

WIDE = Latent(rank=64, rope_dim=32, nope_dim=16, value_dim=32)
NARROW = Latent(rank=48, rope_dim=16, nope_dim=32, value_dim=16, interleaved=False)
HEADS = {WIDE: 6, NARROW: 4}
DTYPES: list[KvDtype] = ["float32", "float16", "bfloat16"]
STEP = {"float32": 2e-7, "float16": 2**-11, "bfloat16": 2**-8}
"""How far rounding moves a value, as a share of it."""

NUM_PAGES = 12


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def stored(values: Array, dtype: KvDtype) -> Array:
    """float32 as the pool holds it."""
    if dtype != "bfloat16":
        return values.astype(dtype)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def loaded(pool: Array) -> Array:
    if pool.dtype == np.uint16:
        return (pool.astype(np.uint32) << 16).view(np.float32)
    return pool.astype(np.float32)


@pytest.mark.parametrize("weights", ["f32", "f16"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rows", [16, 32, 96])
def test_every_head_has_a_matrix_of_its_own(level: Level, weights: Any, rows: int) -> None:
    heads, cols, stride = 3, 24, 40
    kernel = Kernel(level, linear_heads(level, weights, heads, rows, cols, stride))
    w = normal(heads * rows, cols).astype(np.float32 if weights == "f32" else np.float16)
    packed = reference.pack_float(w)
    for n in (1, 19):
        x = normal(n, heads * stride, seed=n)
        (found,) = kernel(x, packed, outputs=[filled(n, heads * rows)])
        expected = twin.linear_heads(x, packed, heads, cols)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kv_dtype", DTYPES)
@pytest.mark.parametrize("latent", HEADS, ids=["wide", "narrow"])
@pytest.mark.parametrize("level", LEVELS)
def test_latents_and_rotated_keys_are_appended(
    level: Level, latent: Latent, kv_dtype: KvDtype
) -> None:
    heads, n = HEADS[latent], 21
    kernel = Kernel(level, latent_append(level, latent, heads, kv_dtype))
    q = normal(n, heads * (latent.nope_dim + latent.rope_dim))
    kv, norm = normal(n, latent.width, seed=1), normal(latent.rank, seed=2)
    rope = normal(40, latent.rope_dim, seed=3)
    rng = np.random.default_rng(4)
    positions = rng.integers(0, 40, n).astype(np.int32)
    slots = rng.permutation(NUM_PAGES * 16)[:n].astype(np.int32)
    pool = filled(2, NUM_PAGES, 1, 1, 16 * latent.width, dtype=stored(kv, kv_dtype).dtype.name)
    turned = filled(n, heads * latent.rope_dim)
    before = loaded(pool)
    after = kernel.run(q, kv, rope, positions, slots, norm, pool, 1, turned)
    left, queries = twin.latent_append(q, kv, rope[positions], norm, latent, heads)
    np.testing.assert_allclose(after[-1], queries, rtol=1e-5, atol=1e-5)
    expected = before.reshape(2, -1, latent.width)
    expected[1, slots] = left
    found = loaded(after[6]).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=STEP[kv_dtype], atol=1e-6)


@pytest.mark.parametrize("kv_dtype", DTYPES)
@pytest.mark.parametrize("latent", HEADS, ids=["wide", "narrow"])
@pytest.mark.parametrize("level", LEVELS)
def test_rows_attend_to_the_latents_before_them(
    level: Level, latent: Latent, kv_dtype: KvDtype
) -> None:
    heads, scale = HEADS[latent], 0.2
    kernel = Kernel(level, latent_attention(level, latent, heads, kv_dtype, scale))
    table = np.array([[3, 1, 7, 0], [5, 2, 2, 2]], np.int32)
    positions = np.array([*range(33, 47), 0, 17], np.int32)
    seqs = np.array([0] * 14 + [1] * 2)
    tiles = np.array([[0, 8, 0, 1], [8, 6, 0, 1], [14, 1, 1, 1], [15, 1, 1, 1]], np.int32)
    values = normal(2, NUM_PAGES, 1, 1, 16 * latent.width)
    pool = stored(values, kv_dtype)
    rows = pool.reshape(2, NUM_PAGES, 16, latent.width)
    rows[:, 7, 15:] = rows[:, 2, 2:] = 0x7FC0 if kv_dtype == "bfloat16" else np.nan
    rows[:, [4, 6]] = 0x7FC0 if kv_dtype == "bfloat16" else np.nan
    q, turned = normal(16, heads * latent.rank, seed=1), normal(16, heads * latent.rope_dim, seed=2)
    args = (q, turned, pool, table, tiles, positions, 1)
    found = kernel.run(*args, filled(16, heads * latent.rank))[-1]
    expected = twin.latent_attention(
        q, turned, loaded(pool), table, seqs, positions, 1, latent, scale
    )
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
