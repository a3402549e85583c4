"""NumPy twins of the kernels of attention over latents, under the same names."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_llm.kernels.reference import unpack_float
from mlc_llm.models.architecture import Latent

Array = NDArray[Any]


def linear_heads(x: Array, w: Array, heads: int, cols: int) -> Array:
    """Each head of x [n, heads * stride] times the transpose of its own matrix in packed `w`."""
    matrices = unpack_float(w).astype(np.float64).reshape(heads, -1, w.shape[1])[..., :cols]
    rows = x.astype(np.float64).reshape(len(x), heads, -1)[..., :cols]
    made: Array = np.einsum("nhc,hrc->nhr", rows, matrices)
    return made.reshape(len(x), -1).astype(np.float32)


def turn(x: Array, rope: Array, interleaved: bool) -> Array:
    """x [n, heads, R] rotated by rows [n, R] of the rotary table; first halves stand first."""
    low, high = (x[..., ::2], x[..., 1::2]) if interleaved else np.split(x, 2, axis=-1)
    cos, sin = np.split(rope[:, None].astype(np.float64), 2, axis=-1)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], -1)


def latent_append(
    q: Array, kv: Array, rope: Array, norm: Array, latent: Latent, heads: int
) -> tuple[Array, Array]:
    """What each row leaves in the pool, [n, width], and the rotated queries, [n, heads * R]; `rope`
    has a row for each row of q."""
    c, key = np.split(kv.astype(np.float64), [latent.rank], axis=1)
    c = c / np.sqrt((c * c).mean(-1, keepdims=True) + latent.norm_eps) * norm
    turned = turn(key[:, None], rope, latent.interleaved)[:, 0]
    queries = q.astype(np.float64).reshape(len(q), heads, -1)[..., latent.nope_dim :]
    found = turn(queries, rope, latent.interleaved).reshape(len(q), -1)
    return np.concatenate([c, turned], axis=1).astype(np.float32), found.astype(np.float32)


def latent_attention(
    q: Array,
    turned: Array,
    pool: Array,
    page_table: Array,
    seqs: Array,
    positions: Array,
    layer: int,
    latent: Latent,
    scale: float,
) -> Array:
    """Weighted sums of latents [n, heads * rank]; `pool` is float32, `seqs` has rows' sequences."""
    n, heads = len(q), q.shape[1] // latent.rank
    out = np.zeros((n, heads, latent.rank))
    for row in range(n):
        end = int(positions[row]) + 1
        pages = page_table[seqs[row], : -(-end // PAGE_SIZE)]
        tokens = pool[layer, pages, 0, 0].reshape(-1, latent.width)[:end].astype(np.float64)
        queries = np.concatenate(
            [q[row].reshape(heads, -1), turned[row].reshape(heads, -1)], axis=1
        ).astype(np.float64)
        scores = scale * queries @ tokens.T
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[row] = weights @ tokens[:, : latent.rank]
    return out.reshape(n, -1).astype(np.float32)
