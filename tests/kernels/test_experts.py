"""The kernels of experts against their NumPy twins, at every level this CPU has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.device import LEVELS, Kernel, filled, quantized_outputs
from mlc_llm.kernels import reference
from mlc_llm.kernels import reference_experts as twin
from mlc_llm.kernels.cpu.experts import experts_add, experts_gated
from mlc_llm.kernels.cpu.level import Level, detect
from mlc_llm.kernels.cpu.route import add_weighted, group_by_expert, route
from mlc_llm.models.architecture import Experts
from mlc_llm.quantization.scheme import CODES

Array = NDArray[Any]

HIDDEN, INNER, PADDED = 96, 40, 64
"""Six blocks of 16, which is a panel and a half; columns that fill no group."""

FEW = Experts(count=5, per_token=2, intermediate_size=INNER, layers=(0,))
ROUTERS = {
    "softmax": FEW,
    "normalised": Experts(
        count=20, per_token=4, intermediate_size=8, layers=(), normalise=True, scale=2.5
    ),
    "best groups": Experts(
        count=16, per_token=3, intermediate_size=8, layers=(), groups=4, groups_per_token=2
    ),
    "corrected sigmoid": Experts(
        count=32, per_token=8, intermediate_size=8, layers=(), scores="sigmoid", normalise=True,
        correction=True, groups=8, groups_per_token=4, group_score="best_two",
    ),
}  # fmt: skip

PRODUCTS = [
    *(
        pytest.param(*level.values, weights, marks=level.marks)
        for level in LEVELS
        for weights in ("f32", "f16", "q4")
    ),
    pytest.param(detect({}), "q8"),  # at every level in `test_linear`
]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def ids_of(rows: int, seed: int = 0) -> Array:
    """Distinct experts for every row; the first expert gets none, so that one run is missing."""
    rng = np.random.default_rng(seed)
    chosen = [1 + rng.permutation(FEW.count - 1)[: FEW.per_token] for _ in range(rows)]
    return np.array(chosen, np.int32)


def grouped(ids: Array) -> tuple[Array, Array, Array]:
    """order, runs, num_runs as the kernels take them."""
    order, runs = twin.group_by_expert(ids, FEW)
    padded = np.full((FEW.count + 1, 2), 0x5A5A5A5A, np.int32)
    padded[: len(runs)] = runs
    return order, padded, np.array([len(runs) - 1], np.int32)


def packed(weights: str, matrices: list[Array]) -> tuple[Array, ...]:
    """The stack of these matrices as kernels take it."""
    if weights in CODES:
        pack = reference.pack_q4 if weights == "q4" else reference.pack_q8
        codes = reference.quantize_q4 if weights == "q4" else reference.quantize_q8
        words, scales = zip(*(pack(*codes(m)) for m in matrices), strict=True)
        return np.concatenate(words), np.concatenate(scales)
    dtype = np.float32 if weights == "f32" else np.float16
    return (np.concatenate([reference.pack_float(m.astype(dtype)) for m in matrices]),)


def unpacked(tensors: tuple[Array, ...]) -> list[Array]:
    return twin.stack(tuple(np.array(np.split(array, FEW.count)) for array in tensors))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("experts", ROUTERS.values(), ids=ROUTERS.keys())
def test_a_router_chooses_what_its_twin_chooses(level: Level, experts: Experts) -> None:
    kernel = Kernel(level, route(level, experts))
    bias = [normal(experts.count, seed=9)] if experts.correction else []
    for n in (1, 19):
        logits = 3 * normal(n, experts.count, seed=n)
        shape = (n, experts.per_token)
        outputs = [filled(*shape, dtype="int32"), filled(*shape)]
        ids, shares = kernel(logits, *bias, outputs=outputs)
        expected_ids, expected = twin.route(logits, experts, *bias)
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_allclose(shares, expected, rtol=2e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_a_shared_mlp_is_added_with_its_weight(level: Level) -> None:
    kernel = Kernel(level, add_weighted(level, 48))
    for n in (1, 19):
        x, made, logits = normal(n, 48), normal(n, 48, seed=1), 5 * normal(n, 1, seed=2)
        (y,) = kernel(x, made, logits, outputs=[filled(n, 48)])
        np.testing.assert_allclose(y, twin.add_weighted(x, made, logits), rtol=1e-5, atol=1e-6)


def test_equal_scores_go_to_the_first_experts_and_nans_to_some() -> None:
    experts = ROUTERS["corrected sigmoid"]
    kernel = Kernel(detect(), route(detect(), experts))
    logits = np.zeros((2, experts.count), np.float32)
    logits[1] = np.nan
    outputs = [filled(2, 8, dtype="int32"), filled(2, 8)]
    ids, _ = kernel(logits, np.zeros(experts.count, np.float32), outputs=outputs)
    np.testing.assert_array_equal(ids[0], np.arange(8))
    assert ((ids[1] >= 0) & (ids[1] < experts.count)).all()


@pytest.mark.parametrize("level", LEVELS)
def test_rows_of_one_expert_are_put_together_in_their_order(level: Level) -> None:
    kernel = Kernel(level, group_by_expert(level, FEW))
    for n in (1, 2, 40):
        ids = ids_of(n, seed=n)
        outputs = [filled(2 * n, dtype="int32"), filled(6, 2, dtype="int32")]
        order, runs, count = kernel(ids, outputs=[*outputs, filled(1, dtype="int32")])
        expected_order, expected_runs = twin.group_by_expert(ids, FEW)
        np.testing.assert_array_equal(order, expected_order)
        assert count[0] == len(expected_runs) - 1
        np.testing.assert_array_equal(runs[: len(expected_runs)], expected_runs)


@pytest.mark.parametrize(("level", "weights"), PRODUCTS)
def test_gated_products_use_the_expert_of_each_row(level: Level, weights: Any) -> None:
    gates, ups = normal(FEW.count, INNER, HIDDEN), normal(FEW.count, INNER, HIDDEN, seed=1)
    both = zip(gates, ups, strict=True)
    tensors = packed(weights, [reference.alternate_gate_up(gate, up) for gate, up in both])
    blocks = 2 * PADDED // 16
    kernel = Kernel(level, experts_gated(level, weights, FEW, blocks, HIDDEN, "silu_mul"))
    for n in (1, 3, 30):
        x, ids = normal(n, HIDDEN, seed=n), ids_of(n, seed=n)
        runs, pairs = grouped(ids), 2 * n
        if weights in CODES:
            rows = reference.quantize(x, CODES[weights].zero)
            read = reference.dequantize(rows[0], rows[1])[:n]
            xq, xs, _ = kernel(*runs, *rows, *tensors, outputs=quantized_outputs(pairs, PADDED))
            found = reference.dequantize(xq, xs)[:pairs]
        else:
            read = x.astype(np.float64)
            (found,) = kernel(*runs, x, *tensors, outputs=[filled(pairs, PADDED)])
        expected = twin.experts_gated(read, ids, unpacked(tensors)).reshape(pairs, -1)[runs[0]]
        off = np.abs(expected).max() / 127 if weights in CODES else 1e-4
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=off)


@pytest.mark.parametrize(("level", "weights"), PRODUCTS)
def test_experts_are_added_with_their_shares_whatever_the_batch(level: Level, weights: Any) -> None:
    tensors = packed(weights, list(normal(FEW.count, HIDDEN, INNER)))
    kernel = Kernel(level, experts_add(level, weights, FEW, HIDDEN // 16, PADDED))

    def run(made: Array, ids: Array, shares: Array, residual: Array) -> tuple[Array, Array]:
        runs = grouped(ids)
        ordered = made.reshape(-1, PADDED)[runs[0]]
        rows: tuple[Array, ...] = (ordered,)
        outputs = [filled(*residual.shape)]
        read = made
        if weights in CODES:
            xq, xs, _ = rows = reference.quantize(ordered, CODES[weights].zero)
            values = reference.dequantize(xq, xs)[: len(ordered)]
            read = np.empty_like(values)
            read[runs[0]] = values
        expected = twin.experts_add(
            read.reshape(made.shape), ids, shares, unpacked(tensors), residual
        )
        return kernel(shares, *runs, *rows, *tensors, residual, outputs=outputs)[0], expected

    made, ids = normal(30, 2, PADDED), ids_of(30)
    made[..., INNER:] = 0
    shares, residual = np.abs(normal(30, 2, seed=3)), normal(30, HIDDEN, seed=4)
    together, expected = run(made, ids, shares, residual)
    np.testing.assert_allclose(together, expected, rtol=1e-5, atol=1e-4)
    for row in (0, 17):
        one = slice(row, row + 1)
        alone, _ = run(made[one], ids[one], shares[one], residual[one])
        np.testing.assert_array_equal(alone, together[one])
