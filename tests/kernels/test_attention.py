"""Rotary embedding, the KV append and paged attention against their NumPy twins."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.device import LEVELS, Array, Kernel, filled, quantized_outputs
from mlc_llm.compiler.abi import PAGE_SIZE, SEGMENT_TOKENS, TILE_ROWS, round_up
from mlc_llm.kernels import reference_attention as reference
from mlc_llm.kernels.cpu.attention import attention
from mlc_llm.kernels.cpu.attention_task import CHUNK_PAGES
from mlc_llm.kernels.cpu.kv_format import KvFormat
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.quantize import quantize
from mlc_llm.kernels.cpu.rope import rope_append
from mlc_llm.kernels.cpu.rope_heads import LOG2_E
from mlc_llm.quantization.scheme import CODES, KvDtype

LAYERS, LAYER = 2, 1
WIDTH = 40
SPANS = ((0, 5), (3, 20), (CHUNK_PAGES * PAGE_SIZE - 3, 7), (127, 30), (0, 1), (500, 1), (255, 2))
"""(start, length): first tokens, chunked prompts over page and chunk borders, decodes."""


class Heads(NamedTuple):
    heads: int
    kv_heads: int
    head_dim: int
    kv_dtype: KvDtype

    @property
    def tolerance(self) -> float:
        """Of a result, in which weights may be rounded as K and V are."""
        return {"bfloat16": 1e-2, "int8": 2e-4}.get(self.kv_dtype, 5e-6)


MODELS = [
    Heads(8, 4, 8, "float32"),
    Heads(6, 2, 80, "float32"),
    Heads(3, 3, 64, "float16"),
    Heads(20, 1, 16, "float16"),
    Heads(8, 2, 64, "bfloat16"),
    Heads(3, 3, 40, "bfloat16"),
    Heads(8, 2, 64, "int8"),
    Heads(3, 3, 40, "int8"),
]


class Batch(NamedTuple):
    """Sequences on scattered pages."""

    table: NDArray[np.int32]
    seqs: NDArray[np.int32]
    positions: NDArray[np.int32]

    @property
    def slots(self) -> NDArray[np.int32]:
        pages = self.table[self.seqs, self.positions // PAGE_SIZE]
        return (pages * PAGE_SIZE + self.positions % PAGE_SIZE).astype(np.int32)

    def tiles(self, most_rows: int, parts: int = 1) -> NDArray[np.int32]:
        """Cut every sequence's rows into tiles of at most `most_rows`, and the heads in parts."""
        found = []
        for seq in np.unique(self.seqs):
            rows = np.flatnonzero(self.seqs == seq)
            found += [
                (rows[i], min(most_rows, len(rows) - i), seq, parts)
                for i in range(0, len(rows), most_rows)
            ]
        return np.array(found, np.int32)


def batch(spans: tuple[tuple[int, int], ...] = SPANS, width: int = WIDTH) -> Batch:
    pages = np.random.default_rng(1).permutation(len(spans) * width + 1)[:-1]
    table = pages.reshape(len(spans), width).astype(np.int32)
    seqs = np.repeat(np.arange(len(spans)), [length for _, length in spans]).astype(np.int32)
    positions = np.concatenate([np.arange(s, s + length) for s, length in spans])
    return Batch(table, seqs, positions.astype(np.int32))


def pool_of(model: Heads, pages: int, fill: float | None = None) -> Array:
    """A pool as kernels store it."""
    padded = round_up(model.head_dim, 16)
    shape = (LAYERS, pages, model.kv_heads, 2, PAGE_SIZE * padded)
    if fill is not None:
        return reference.pack_pool(np.full(shape, fill, np.float32), model.kv_dtype)
    values = np.random.default_rng(2).standard_normal(shape, np.float32)
    keys = values[:, :, :, 0].reshape(LAYERS, pages, model.kv_heads, padded, PAGE_SIZE)
    keys[:, :, :, model.head_dim :] = 0
    values[:, :, :, 0] = keys.reshape(LAYERS, pages, model.kv_heads, -1)
    return reference.pack_pool(values, model.kv_dtype)


def as_factors(level: Level, model: Heads, q: Array) -> Array:
    """Queries as `rope_append` hands them on."""
    if KvFormat(level, model.kv_dtype).dots:
        return (q.view(np.uint32) >> 16).astype(np.uint16)
    return q


def as_multiplied(level: Level, model: Heads, q: Array) -> Array:
    """Queries with what rounding them costs."""
    if KvFormat(level, model.kv_dtype).counts:
        unit = np.abs(q).max(axis=2, keepdims=True) / np.float32(127)
        return np.rint(q / unit) * unit
    return reference.widen(as_factors(level, model, q))


def queries(model: Heads, rows: int) -> Array:
    padded = round_up(model.head_dim, 16)
    q = np.random.default_rng(3).standard_normal((rows, model.heads, padded), np.float32)
    q[:, :, model.head_dim :] = 0
    return q * np.float32(LOG2_E / model.head_dim**0.5)


@cache
def attention_kernel(
    level: Level, model: Heads, window: int | None = None, softcap: float | None = None
) -> Kernel:
    return Kernel(level, attention(level, *model, window, softcap))


def attend(
    level: Level,
    model: Heads,
    q: Array,
    pool: Array,
    b: Batch,
    tiles: Array,
    window: int | None = None,
    softcap: float | None = None,
) -> Array:
    out = filled(len(b.positions), model.heads * model.head_dim)
    kernel = attention_kernel(level, model, window, softcap)
    q = as_factors(level, model, q)
    return kernel.run(q, pool, b.table, tiles, b.positions, LAYER, out)[-1]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_new_tokens_are_rotated_and_written_to_their_pages_only(level: Level, model: Heads) -> None:
    b = batch()
    rng = np.random.default_rng(4)
    qkv = rng.standard_normal((len(b.seqs), (model.heads + 2 * model.kv_heads) * model.head_dim))
    rope = rng.standard_normal((600, model.head_dim)).astype(np.float32)
    qkv = qkv.astype(np.float32)
    before = pool_of(model, b.table.size + 1, fill=7.0)
    expected = reference.unpack_pool(before, model.kv_dtype)
    expected_q = reference.rope_append(
        qkv, rope, b.positions, b.slots, expected, LAYER,
        heads=model.heads, kv_heads=model.kv_heads,
    )  # fmt: skip
    kernel = Kernel(level, rope_append(level, *model))
    inputs = (qkv, rope, b.positions, b.slots)
    fmt = KvFormat(level, model.kv_dtype)
    *_, pool, _, q = kernel.run(
        *inputs, before, LAYER, filled(*expected_q.shape, dtype=fmt.factor_dtype)
    )
    step = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 2**-8, "int8": 0.0}[model.kv_dtype]
    rounded = step if fmt.dots else 0.0
    np.testing.assert_allclose(reference.widen(q), expected_q, atol=2e-6, rtol=rounded)
    found = reference.unpack_pool(pool, model.kv_dtype)
    least = min(step, 2e-3)
    if model.kv_dtype == "int8":  # a number between two steps may go either way
        least = np.abs(expected).max() / 127
        assert np.mean(pool == reference.pack_pool(expected, "int8")) > 0.999
    np.testing.assert_allclose(found, expected, rtol=step, atol=least)
    np.testing.assert_array_equal(pool[0], before[0])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_attention_is_softmax_over_the_pages_of_the_sequence(level: Level, model: Heads) -> None:
    b = batch()
    q, pool, tiles = queries(model, len(b.seqs)), pool_of(model, b.table.size + 1), b.tiles(8)
    out = attend(level, model, q, pool, b, tiles)
    q = as_multiplied(level, model, q)
    args = (reference.unpack_pool(pool, model.kv_dtype), b.table, tiles, b.positions, LAYER)
    expected = reference.attention(q, *args, head_dim=model.head_dim)
    np.testing.assert_allclose(out, expected, atol=model.tolerance)


@pytest.mark.parametrize("level", LEVELS)
def test_scores_in_a_window_are_capped(level: Level) -> None:
    model, window, softcap = Heads(4, 2, 16, "bfloat16"), CHUNK_PAGES * PAGE_SIZE + 9, 1.5
    b = batch()
    q, pool, tiles = queries(model, len(b.seqs)), pool_of(model, b.table.size + 1), b.tiles(8)
    out = attend(level, model, q, pool, b, tiles, window, softcap)
    alone = attend(level, model, q, pool, b, b.tiles(1), window, softcap)
    np.testing.assert_array_equal(out, alone)
    q = as_multiplied(level, model, q)
    args = (reference.unpack_pool(pool, model.kv_dtype), b.table, tiles, b.positions, LAYER)
    expected = reference.attention(
        q, *args, head_dim=model.head_dim, window=window, softcap=softcap
    )
    np.testing.assert_allclose(out, expected, atol=model.tolerance)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_row_is_bitwise_the_same_in_every_tile_and_part(level: Level, model: Heads) -> None:
    b = batch()
    q, pool = queries(model, len(b.seqs)), pool_of(model, b.table.size + 1)
    whole = attend(level, model, q, pool, b, b.tiles(TILE_ROWS))
    for most_rows, parts in ((1, 1), (2, model.kv_heads), (3, 1), (5, 1), (1, model.kv_heads)):
        tiles = b.tiles(most_rows, parts)
        np.testing.assert_array_equal(whole, attend(level, model, q, pool, b, tiles))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("model", [MODELS[0], MODELS[4]], ids=str)
def test_slots_that_no_token_owns_are_never_used(level: Level, model: Heads) -> None:
    b = batch()
    q, pool = queries(model, len(b.seqs)), pool_of(model, b.table.size + 1)
    clean = attend(level, model, q, pool, b, b.tiles(TILE_ROWS))
    owned = np.zeros((b.table.size + 1, PAGE_SIZE), bool)
    for seq, (start, length) in enumerate(SPANS):
        held = np.arange(start + length)
        owned[b.table[seq, held // PAGE_SIZE], held % PAGE_SIZE] = True
    pool = reference.unpack_pool(pool, model.kv_dtype)
    for page, slot in zip(*np.nonzero(~owned), strict=True):
        pool[LAYER, page, :, 0].reshape(model.kv_heads, -1, PAGE_SIZE)[:, :, slot] = np.nan
        pool[LAYER, page, :, 1].reshape(model.kv_heads, PAGE_SIZE, -1)[:, slot] = np.nan
    pool = reference.pack_pool(pool, model.kv_dtype)
    np.testing.assert_array_equal(clean, attend(level, model, q, pool, b, b.tiles(TILE_ROWS)))


LONG = ((4 * SEGMENT_TOKENS + 99, 1), (SEGMENT_TOKENS - 4, 7), (SEGMENT_TOKENS - 1, 1), (40, 1))
"""A context of five segments, rows on both sides of a border, one segment, and a part of one."""


def check_shared(level: Level, model: Heads, window: int | None = None) -> None:
    """Results are right, and the same however many tasks share a context."""
    b = batch(LONG, width=-(-(LONG[0][0] + 1) // PAGE_SIZE))
    q, pool = queries(model, len(b.seqs)), pool_of(model, b.table.size + 1)
    whole = attend(level, model, q, pool, b, b.tiles(TILE_ROWS), window)
    for spans in (1, 2, 3, 7):
        tiles = b.tiles(1, spans * model.kv_heads)
        shared = attend(level, model, q, pool, b, tiles, window)
        np.testing.assert_array_equal(whole, shared)
    q = as_multiplied(level, model, q)
    args = (reference.unpack_pool(pool, model.kv_dtype), b.table, tiles, b.positions, LAYER)
    expected = reference.attention(q, *args, head_dim=model.head_dim, window=window)
    np.testing.assert_allclose(whole, expected, atol=model.tolerance)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("model", [MODELS[0], MODELS[3], MODELS[4], MODELS[6]], ids=str)
def test_tasks_that_share_a_context_change_nothing(level: Level, model: Heads) -> None:
    check_shared(level, model)


@pytest.mark.parametrize("tokens", [300, 2 * SEGMENT_TOKENS + 76])
def test_tasks_that_share_what_a_window_leaves_change_nothing(tokens: int) -> None:
    check_shared(Level.GENERIC, MODELS[0], tokens)


def test_a_row_that_is_not_a_number_leaves_the_others_alone() -> None:
    model, level = MODELS[1], Level.GENERIC
    b = batch()
    q, pool = queries(model, len(b.seqs)), pool_of(model, b.table.size + 1)
    clean = attend(level, model, q, pool, b, b.tiles(TILE_ROWS))
    q[6] = np.nan
    broken = attend(level, model, q, pool, b, b.tiles(TILE_ROWS))
    others = np.arange(len(q)) != 6
    np.testing.assert_array_equal(clean[others], broken[others])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("weights", ["q4", "q8"])
def test_a_quantized_result_is_that_of_quantize_bit_for_bit(level: Level, weights: str) -> None:
    model, codes, b = Heads(8, 2, 64, "bfloat16"), CODES[weights], batch()
    rows, width = len(b.seqs), model.heads * model.head_dim
    q, pool, tiles = queries(model, rows), pool_of(model, b.table.size + 1), b.tiles(TILE_ROWS)
    plain = attend(level, model, q, pool, b, tiles)
    outputs = quantized_outputs(rows, width)
    apart = Kernel(level, quantize(level, width, codes))(plain, outputs=outputs)
    kernel = Kernel(level, attention(level, *model, codes=codes))
    args = (as_factors(level, model, q), pool, b.table, tiles, b.positions, LAYER)
    together = kernel.run(*args, *outputs)[-3:]
    for first, second in zip(apart, together, strict=True):
        np.testing.assert_array_equal(first, second)


def test_heads_that_are_no_whole_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="whole groups of 32"):
        attention(Level.GENERIC, 2, 1, 16, "float32", codes=CODES["q4"])
