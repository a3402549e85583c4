"""Which experts a row goes to, and with which shares; then the rows of each expert together.

`route` works row by row, `group_by_expert` over a whole step. Both are as deterministic as their
input: of equal scores the expert with the lower number is taken, and rows keep their order.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc, Var

from mlc_llm.compiler.abi import round_up
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.vector import (
    arg,
    const,
    exp,
    fma,
    for_each_row,
    lane_sum,
    prim_func,
    span,
    splat,
    symbol,
)
from mlc_llm.models.architecture import Experts

LANES = 16
NEVER = -3.0e38
"""A score below all others."""


def route(level: Level, experts: Experts) -> PrimFunc:
    """(logits f32[n, E][, bias f32[E]], ids int32[n, k], shares f32[n, k]), best expert first."""
    count, wanted = experts.count, experts.per_token
    padded = round_up(count, LANES)

    def emit() -> None:
        n = symbol("n")
        logits = arg("logits", (n, count), "float32")
        bias = arg("bias", (count,), "float32") if experts.correction else None
        ids = arg("ids", (n, wanted), "int32")
        shares = arg("shares", (n, wanted), "float32")

        def row(r: Expr) -> None:
            scores, choice = _array(padded), _array(padded)
            _scores(level, experts, lambda e: logits[r, e], scores)
            with T.serial(T.int64(count)) as e:
                added = T.float32(0) if bias is None else bias[e]
                T.buffer_store(choice, scores[e] + added, [e])
            if experts.groups > experts.groups_per_token:
                _keep_best_groups(experts, choice)
            total = _array(1)
            T.buffer_store(total, T.float32(0), [0])
            with T.serial(T.int64(wanted)) as k:
                best = _take_best(choice, count)
                T.buffer_store(ids, best, [r, k])
                T.buffer_store(shares, scores[best], [r, k])
                T.buffer_store(total, total[0] + scores[best], [0])
            divisor = total[0] if experts.normalise else T.float32(1)
            with T.serial(T.int64(wanted)) as k:
                share = shares[r, k] / divisor * T.float32(experts.scale)
                T.buffer_store(shares, share, [r, k])

        for_each_row(n, row)

    return prim_func(emit)


def add_weighted(level: Level, hidden: int) -> PrimFunc:
    """(x f32[n, hidden], made f32[n, hidden], logits f32[n, 1], y f32[n, hidden]): y is x plus what
    was made times the sigmoid of its row's logit. `hidden` is a multiple of 16."""

    def emit() -> None:
        n = symbol("n")
        x = arg("x", (n, hidden), "float32")
        made = arg("made", (n, hidden), "float32")
        logits = arg("logits", (n, 1), "float32")
        y = arg("y", (n, hidden), "float32")

        def row(r: Expr) -> None:
            power = exp(level, splat(T.float32(0) - logits[r, 0], LANES), LANES)
            weight = T.bind(const(1.0, LANES) / (const(1.0, LANES) + power))
            with T.serial(T.int64(hidden // LANES)) as i:
                columns = span(i * LANES, LANES)
                total = fma(level, made[r, columns], weight, x[r, columns], LANES)
                T.buffer_store(y, total, [r, columns])

        for_each_row(n, row)

    return prim_func(emit)


def _array(size: int, dtype: str = "float32") -> Var:
    return T.alloc_buffer((size,), dtype, scope="global")


def _scores(level: Level, experts: Experts, logit: Callable[[Expr], Expr], scores: Var) -> None:
    """Write the scores of a row; past the last expert is junk."""
    count, padded = experts.count, int(scores.shape[0])
    largest = _array(1)
    T.buffer_store(largest, logit(T.int64(0)), [0])
    with T.serial(T.int64(count)) as e:
        T.buffer_store(scores, logit(e), [e])
        T.buffer_store(largest, T.max(largest[0], logit(e)), [0])
    for e in range(count, padded):
        T.buffer_store(scores, T.float32(NEVER), [e])
    if experts.scores == "sigmoid":
        for first in range(0, padded, LANES):
            x = scores[span(first, LANES)]
            power = exp(level, const(0.0, LANES) - x, LANES)
            T.buffer_store(
                scores, const(1.0, LANES) / (const(1.0, LANES) + power), [span(first, LANES)]
            )
        return
    total = _array(LANES)
    T.buffer_store(total, const(0.0, LANES), [span(0, LANES)])
    for first in range(0, padded, LANES):
        power = T.bind(exp(level, scores[span(first, LANES)] - splat(largest[0], LANES), LANES))
        T.buffer_store(scores, power, [span(first, LANES)])
        T.buffer_store(total, total[span(0, LANES)] + power, [span(0, LANES)])
    whole = T.bind(lane_sum(total[span(0, LANES)], LANES))
    for first in range(0, padded, LANES):
        T.buffer_store(
            scores, scores[span(first, LANES)] / splat(whole, LANES), [span(first, LANES)]
        )


def _take_best(choice: Var, count: int) -> Expr:
    """The place of the largest of `count` values, which is then never taken again. Whatever the
    values are (none is larger than a NaN), the place is one of these."""
    best, place = _array(1), _array(1, "int32")
    T.buffer_store(best, T.float32(NEVER), [0])
    T.buffer_store(place, T.int32(0), [0])
    with T.serial(T.int64(count)) as i, T.If(choice[i] > best[0]), T.Then():
        T.buffer_store(best, choice[i], [0])
        T.buffer_store(place, T.Cast("int32", i), [0])
    found = T.bind(place[0])
    T.buffer_store(choice, T.float32(NEVER), [found])
    return found


def _keep_best_groups(experts: Experts, choice: Var) -> None:
    """Forbid all experts outside the best groups."""
    size = experts.count // experts.groups
    strength, kept = _array(experts.groups), _array(experts.groups, "int32")
    with T.serial(T.int64(experts.groups)) as g:
        T.buffer_store(strength, _strength(experts, choice, g * size, size), [g])
        T.buffer_store(kept, T.int32(0), [g])
    with T.serial(T.int64(experts.groups_per_token)):
        T.buffer_store(kept, T.int32(1), [_take_best(strength, experts.groups)])
    with T.serial(T.int64(experts.count)) as e, T.If(kept[T.floordiv(e, size)] == 0), T.Then():
        T.buffer_store(choice, T.float32(NEVER), [e])


def _strength(experts: Experts, choice: Var, first: Expr, size: int) -> Expr:
    """The best value of a group, plus its second best where two count."""
    best, second = _array(1), _array(1)
    for place in (best, second):
        T.buffer_store(place, T.float32(NEVER), [0])
    with T.serial(T.int64(size)) as i:
        value = T.bind(choice[first + i])
        T.buffer_store(second, T.max(second[0], T.min(best[0], value)), [0])
        T.buffer_store(best, T.max(best[0], value), [0])
    return best[0] + second[0] if experts.group_score == "best_two" and size > 1 else best[0]


def group_by_expert(level: Level, experts: Experts) -> PrimFunc:
    """(ids int32[n, k], order int32[m], runs int32[E + 1, 2], num_runs int32[1]), m = n k.

    `order` has the pairs row * k + rank, those of one expert together, experts ascending, rows
    ascending. Run i is of expert runs[i, 0] and begins at order[runs[i, 1]]; it ends where the next
    one begins, which holds for the last run too. Experts without rows have no run.
    """
    count, wanted = experts.count, experts.per_token

    def emit() -> None:
        n, m = symbol("n"), symbol("m")
        ids = arg("ids", (n, wanted), "int32")
        order = arg("order", (m,), "int32")
        runs = arg("runs", (count + 1, 2), "int32")
        num_runs = arg("num_runs", (1,), "int32")
        next_place, start = _array(count, "int32"), _array(1, "int32")

        def expert(pair: Expr) -> Expr:
            return ids[T.floordiv(pair, wanted), T.floormod(pair, wanted)]

        with T.serial(T.int64(count)) as e:
            T.buffer_store(next_place, T.int32(0), [e])
        with T.serial(n * wanted) as pair:
            e = T.bind(expert(pair))
            T.buffer_store(next_place, next_place[e] + 1, [e])
        for place in (num_runs, start):
            T.buffer_store(place, T.int32(0), [0])
        with T.serial(T.int64(count)) as e:
            size = T.bind(next_place[e])
            T.buffer_store(next_place, start[0], [e])
            with T.If(size > 0), T.Then():
                T.buffer_store(runs, T.Cast("int32", e), [num_runs[0], 0])
                T.buffer_store(runs, start[0], [num_runs[0], 1])
                T.buffer_store(num_runs, num_runs[0] + 1, [0])
                T.buffer_store(start, start[0] + size, [0])
        T.buffer_store(runs, T.int32(0), [num_runs[0], 0])
        T.buffer_store(runs, start[0], [num_runs[0], 1])
        with T.serial(n * wanted) as pair:
            e = T.bind(expert(pair))
            T.buffer_store(order, T.Cast("int32", pair), [next_place[e]])
            T.buffer_store(next_place, next_place[e] + 1, [e])

    return prim_func(emit)
