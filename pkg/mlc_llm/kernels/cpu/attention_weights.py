"""The softmax of attention, online: a chunk's scores become weights relative to the largest so far.

Milakov and Gimelshein (2018). A masked token adds exactly nothing (its score is MASKED, its weight
exactly 0.0), and so does a whole masked chunk: the factor that earlier sums fade by is exactly 1.0
after the row's tokens, and 0.0 before a window.
"""

from __future__ import annotations

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import Var

from mlc_llm.kernels.cpu.attention_task import CHUNK_PAGES, MASKED, Here, Task, at
from mlc_llm.kernels.cpu.exp2 import exp2
from mlc_llm.kernels.cpu.kv_bytes import split_weights
from mlc_llm.kernels.cpu.kv_format import LANES
from mlc_llm.kernels.cpu.vector import const, fma, get, put, registers, splat


def weigh(task: Task, here: Here, query: Expr, num_pages: Expr) -> None:
    """Turn the chunk's scores of one query into weights relative to the largest score so far."""
    fmt, scratch, level = task.fmt, task.scratch, task.fmt.level
    top, total, heaviest = registers(LANES), registers(LANES), registers(LANES)
    put(top, const(MASKED, LANES), LANES)
    with T.serial(num_pages) as page:
        put(top, T.max(get(top, LANES), scratch.scores[at(query * CHUNK_PAGES + page)]), LANES)
    largest = fmt.largest(get(top, LANES))
    sums, state = scratch.segment, T.bind(here.nth * task.block.queries + query)
    before = T.bind(sums.top.get(state))
    now = T.bind(T.max(splat(largest, LANES), before))
    fade = exp2(level, T.bind(before - now), LANES)
    put(total, const(0.0, LANES), LANES)
    if fmt.counts:
        put(heaviest, const(0.0, LANES), LANES)
    with T.serial(num_pages) as page:
        _weigh_page(task, here, T.bind(query * CHUNK_PAGES + page), page, now, total, heaviest)
    if fmt.counts:
        scores, factors = scratch.scores, scratch.factors
        unit = split_weights(fmt, heaviest, scores, factors, query, num_pages, CHUNK_PAGES)
        T.buffer_store(scratch.units, splat(unit, LANES), [at(query)])
    faded = fma(level, sums.total.get(state), fade, get(total, LANES), LANES)
    sums.total.put(state, faded)
    sums.top.put(state, now)
    T.buffer_store(scratch.fade, fade, [at(query)])


def _weigh_page(
    task: Task, here: Here, place: Expr, page: Expr, now: Expr, total: Var, heaviest: Var
) -> None:
    """The weights of a page's tokens; `place`: of the query's scores of that page."""
    fmt, scratch = task.fmt, task.scratch
    below = T.bind(scratch.scores[at(place)] - now)
    weight = T.bind(exp2(fmt.level, below, LANES, coarse=fmt.dots))
    put(total, get(total, LANES) + weight, LANES)
    if fmt.scaled:
        of_page = task.page(here.page0 + page)
        scales = task.scales(of_page, task.work.first_head + here.nth, 1)
        owned = weight > const(0.0, LANES)
        weight = T.bind(T.Select(owned, weight * scales, const(0.0, LANES)))
    if fmt.counts:
        put(heaviest, T.max(get(heaviest, LANES), weight), LANES)
        T.buffer_store(scratch.scores, weight, [at(place)])
    else:
        T.buffer_store(scratch.factors, fmt.factor(weight, LANES), [at(place)])
