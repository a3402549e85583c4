"""NumPy twins of `kernels/cpu/rope.py` and `kernels/cpu/attention.py`: what they must compute.

Same arguments, float64 inside, no blocking. Their pool is of floats, K [D][16 tokens] and V
[16 tokens][D]; `pack_pool` and `unpack_pool` lead to and from what the kernels store.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc_llm.compiler.abi import PAGE_SIZE, round_up
from mlc_llm.quantization.scheme import KvDtype

Array = NDArray[Any]

LOG2_E = np.log2(np.e)


def widen(stored: Array) -> Array:
    """Elements of a pool, or queries, as floats: the bits of bfloat16 travel as uint16."""
    if stored.dtype != np.uint16:
        return stored
    return (stored.astype(np.uint32) << 16).view(np.float32)


def narrow(values: Array) -> Array:
    """The bits of the nearest bfloat16, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def pack_pool(pool: Array, kv_dtype: KvDtype) -> Array:
    """A pool of float32 as the kernels store it."""
    if kv_dtype == "int8":
        return _in_bytes(pool.astype(np.float32))
    if kv_dtype != "bfloat16":
        return pool.astype(kv_dtype)
    return _in_pairs(narrow(pool.astype(np.float32)), back=False)


def unpack_pool(pool: Array, kv_dtype: KvDtype) -> Array:
    """A pool of the kernels as float32."""
    if kv_dtype == "int8":
        return _from_bytes(pool)
    if kv_dtype != "bfloat16":
        return pool.astype(np.float32)
    return widen(_in_pairs(pool, back=True))


def _in_pairs(pool: Array, *, back: bool) -> Array:
    """[..., a, 2, b] to [..., a, b, 2], or back; b is 16 in K and D in V."""
    out = np.empty_like(pool)
    width = pool.shape[-1] // PAGE_SIZE
    for which, size in ((0, PAGE_SIZE), (1, width)):
        shape = (size, 2) if back else (2, size)
        pairs = pool[..., which, :].reshape(*pool.shape[:-2], -1, *shape)
        out[..., which, :] = pairs.swapaxes(-1, -2).reshape(*pool.shape[:-2], -1)
    return out


def _by_token(pool: Array, side: int) -> Array:
    """K (side 0) or V of a pool of floats as [..., columns, tokens], a view where it can be one."""
    shape = pool.shape[:-2]
    if side == 0:
        return pool[..., 0, :].reshape(*shape, -1, PAGE_SIZE)
    return pool[..., 1, :].reshape(*shape, PAGE_SIZE, -1).swapaxes(-1, -2)


def _in_bytes(pool: Array) -> Array:
    """Whole numbers of -127 .. 127 (in K 128 more), four neighbours side by side; then scales."""
    size = pool.shape[-1]
    out = np.empty((*pool.shape[:-1], size + 4 * PAGE_SIZE), np.uint8)
    for side in (0, 1):
        columns = _by_token(pool, side)
        most = np.abs(columns).max(axis=-2, keepdims=True)
        factor = np.float32(127) / np.where(most > 1e-30, most, np.inf).astype(np.float32)
        whole = np.floor(columns * factor + np.float32(128.5)).astype(np.uint8)
        whole = whole ^ np.uint8(128) if side else whole
        axis = whole.swapaxes(-1, -2) if side else whole
        fours = axis.reshape(*axis.shape[:-2], axis.shape[-2] // 4, 4, axis.shape[-1])
        out[..., side, :size] = fours.swapaxes(-1, -2).reshape(*pool.shape[:-2], size)
        scales = (most[..., 0, :] * np.float32(1 / 127)).astype(np.float32)
        out[..., side, size:] = np.ascontiguousarray(scales).view(np.uint8)
    return out


def _from_bytes(stored: Array) -> Array:
    size = stored.shape[-1] - 4 * PAGE_SIZE
    out = np.empty((*stored.shape[:-1], size), np.float32)
    for side in (0, 1):
        scales = np.ascontiguousarray(stored[..., side, size:]).view(np.float32)
        lanes = size // PAGE_SIZE if side else PAGE_SIZE
        whole = (stored[..., side, :size] ^ np.uint8(0 if side else 128)).view(np.int8)
        rows = whole.reshape(*stored.shape[:-2], -1, lanes, 4).swapaxes(-1, -2)
        rows = rows.reshape(*stored.shape[:-2], -1, lanes)
        units = scales[..., :, None] if side else scales[..., None, :]
        out[..., side, :] = (rows * units).reshape(*stored.shape[:-2], size)
    return out


def rope_append(
    qkv: Array,
    rope: Array,
    positions: Array,
    slots: Array,
    pool: Array,
    layer: int,
    *,
    heads: int,
    kv_heads: int,
) -> Array:
    """Write K and V of the rows into `pool` and return Q f32[n, Hq, Dp], rotated and scaled."""
    rows, head_dim = len(positions), rope.shape[1]
    padded = round_up(head_dim, 16)
    angles = rope.astype(np.float64)[positions][:, None, :]
    cos, sin = np.split(angles, 2, axis=2)
    parts = qkv.astype(np.float64)[:, : (heads + 2 * kv_heads) * head_dim]
    parts = parts.reshape(rows, heads + 2 * kv_heads, head_dim)
    x, y = np.split(parts[:, : heads + kv_heads], 2, axis=2)
    turned = np.zeros((rows, heads + kv_heads, padded))
    turned[:, :, :head_dim] = np.concatenate([x * cos - y * sin, y * cos + x * sin], axis=2)
    values = np.zeros((rows, kv_heads, padded))
    values[:, :, :head_dim] = parts[:, heads + kv_heads :]
    page, slot = np.divmod(slots, PAGE_SIZE)
    keys_of = pool[layer, :, :, 0].reshape(-1, kv_heads, padded, PAGE_SIZE)
    values_of = pool[layer, :, :, 1].reshape(-1, kv_heads, PAGE_SIZE, padded)
    for row in range(rows):
        keys_of[page[row], :, :, slot[row]] = turned[row, heads:]
        values_of[page[row], :, slot[row]] = values[row]
    pool[layer, :, :, 0] = keys_of.reshape(-1, kv_heads, padded * PAGE_SIZE)
    pool[layer, :, :, 1] = values_of.reshape(-1, kv_heads, padded * PAGE_SIZE)
    queries: Array = turned[:, :heads] * (np.log2(np.e) / np.sqrt(head_dim))
    return queries.astype(np.float32)


def attention(
    q: Array,
    pool: Array,
    page_table: Array,
    tiles: Array,
    positions: Array,
    layer: int,
    *,
    head_dim: int,
    window: int | None = None,
    softcap: float | None = None,
) -> Array:
    """O f32[n, Hq * D]: every row attends to the positions of its sequence up to its own, or to so
    many of the latest. Scores are capped before their softmax."""
    rows, heads, padded = q.shape
    kv_heads = pool.shape[2]
    out = np.zeros((rows, heads, head_dim))
    for first, count, seq, _ in tiles.tolist():
        for row in range(first, first + count):
            context = int(positions[row]) + 1
            oldest = 0 if window is None else max(0, context - window)
            pages = page_table[seq, : -(-context // PAGE_SIZE)]
            held = pool[layer, pages].astype(np.float64)
            keys = held[:, :, 0].reshape(-1, kv_heads, padded, PAGE_SIZE).transpose(1, 0, 3, 2)
            values = held[:, :, 1].reshape(-1, kv_heads, PAGE_SIZE, padded).transpose(1, 0, 2, 3)
            keys = keys.reshape(kv_heads, -1, padded)[:, oldest:context]
            values = values.reshape(kv_heads, -1, padded)[:, oldest:context, :head_dim]
            queries = q[row].astype(np.float64).reshape(kv_heads, -1, padded)
            scores = queries @ keys.transpose(0, 2, 1)
            if softcap is not None:  # queries hold log2(e), for powers of 2
                scores = softcap * LOG2_E * np.tanh(scores / (softcap * LOG2_E))
            weights = np.exp2(scores - scores.max(axis=2, keepdims=True))
            weights /= weights.sum(axis=2, keepdims=True)
            out[row] = (weights @ values).reshape(heads, head_dim)
    return out.reshape(rows, heads * head_dim).astype(np.float32)
