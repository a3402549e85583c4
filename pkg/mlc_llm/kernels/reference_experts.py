"""NumPy twins of the kernels of experts, under the same names: what each one means, slowly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc_llm.kernels.reference import silu, unpack_float, unpack_groups
from mlc_llm.models.architecture import Experts
from mlc_llm.models.parameters import ROW_BLOCK

Array = NDArray[Any]


def route(logits: Array, experts: Experts, bias: Array | None = None) -> tuple[Array, Array]:
    """ids and shares [n, k] of the experts of each row, the best first."""
    wide = logits.astype(np.float64)
    if experts.scores == "sigmoid":
        scores = 1 / (1 + np.exp(-wide))
    else:
        powers = np.exp(wide - wide.max(-1, keepdims=True))
        scores = powers / powers.sum(-1, keepdims=True)
    choice = scores if bias is None else scores + bias
    grouped = choice.reshape(len(logits), experts.groups, -1)
    counted = 2 if experts.group_score == "best_two" else 1
    strength = np.sort(grouped)[..., ::-1][..., :counted].sum(-1)
    best = np.argsort(-strength, axis=1, kind="stable")[:, : experts.groups_per_token]
    allowed = np.zeros_like(strength, dtype=bool)
    np.put_along_axis(allowed, best, True, axis=1)
    choice = np.where(allowed[..., None], grouped, -np.inf).reshape(choice.shape)
    ids = np.argsort(-choice, axis=1, kind="stable")[:, : experts.per_token]
    shares = np.take_along_axis(scores, ids, axis=1)
    if experts.normalise:
        shares = shares / shares.sum(-1, keepdims=True)
    return ids.astype(np.int32), (experts.scale * shares).astype(np.float32)


def add_weighted(x: Array, made: Array, logits: Array) -> Array:
    """x plus `made` times the sigmoid of each row's logit."""
    total: Array = x + made / (1 + np.exp(-logits.astype(np.float64)))
    return total.astype(np.float32)


def group_by_expert(ids: Array, experts: Experts) -> tuple[Array, Array]:
    """The order of the pairs, and the runs with the end of the last one."""
    pairs = ids.reshape(-1)
    order = np.argsort(pairs, kind="stable").astype(np.int32)
    present, starts = np.unique(pairs[order], return_index=True)
    runs = [*zip(present.tolist(), starts.tolist(), strict=True), (0, len(pairs))]
    return order, np.array(runs, np.int32)


def stack(packed: tuple[Array, ...]) -> list[Array]:
    """The matrices of experts [E, Np, Kp] from packed ones [E][...]."""
    unpacked = unpack_groups if len(packed) == 2 else unpack_float
    return [unpacked(*one).astype(np.float64) for one in zip(*packed, strict=True)]


def experts_gated(rows: Array, ids: Array, matrices: list[Array]) -> Array:
    """silu(gate) * up of every row and each of its experts, [n, k, N]; blocks alternate."""
    out = [[rows[r] @ matrices[e][:, : rows.shape[1]].T for e in ids[r]] for r in range(len(ids))]
    blocks = np.array(out).reshape(*ids.shape, -1, 2, ROW_BLOCK)
    made: Array = silu(blocks[..., 0, :]) * blocks[..., 1, :]
    return made.reshape(*ids.shape, -1)


def experts_add(
    made: Array, ids: Array, shares: Array, matrices: list[Array], residual: Array
) -> Array:
    """The residual plus what each expert makes of its [n, k, N], times its share."""
    y = residual.astype(np.float64)
    for r, k in np.ndindex(*ids.shape):
        matrix = matrices[ids[r, k]][: y.shape[1], : made.shape[2]]
        y[r] += shares[r, k] * (made[r, k] @ matrix.T)
    return y.astype(np.float32)
