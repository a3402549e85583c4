"""Where attention asks memory for what it will read soon."""

from __future__ import annotations

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_llm.kernels.cpu.attention_task import CHUNK_PAGES, Here, Task
from mlc_llm.quantization.scheme import kv_width

PREFETCH_PAGES = 4
AHEAD_BYTES = 8 << 10
"""Of a head's K or V, when pages are asked for in the order of use."""


def look_ahead(task: Task, here: Here) -> None:
    """Fill `scratch.ahead`: what to ask memory for while each page of a chunk is computed.

    Where lines are multiplied faster than memory brings them, they are asked for in the order of
    use: K, V, then K of the next head or chunk. What was asked for long before has left the fastest
    cache again. Slower formats lose by this: the pages of the next chunk are the better choice.

    All of it is known but for the chunk and the head: LLVM takes tens of seconds to think through
    addresses that are chosen and bounded in the loops that use them.
    """
    own = T.bind(task.work.first_head + here.nth)
    if task.fmt.dots or task.fmt.counts:
        _in_order_of_use(task, here, own)
        return
    for p in range(CHUNK_PAGES):
        for side in range(2):
            _put(task, side, p, here.page0 + (p + PREFETCH_PAGES), own, side)


def _in_order_of_use(task: Task, here: Here, own: Expr) -> None:
    last = T.bind(here.nth + 1 == task.work.heads)
    next_head = T.bind(task.work.first_head + T.Select(last, T.int64(0), here.nth + 1))
    next_page0 = T.bind(here.page0 + T.Select(last, T.int64(CHUNK_PAGES), T.int64(0)))
    distance = AHEAD_BYTES // (PAGE_SIZE * task.shape.padded * kv_width(task.fmt.kv_dtype))
    distance = max(1, min(distance, PREFETCH_PAGES))
    for p in range(CHUNK_PAGES):
        later, index = divmod(p + distance, CHUNK_PAGES)
        _put(task, 0, p, here.page0 + index, own, later)
        if later:
            _put(task, 1, p, next_page0 + index, next_head, 0)
        else:
            _put(task, 1, p, here.page0 + index, own, 1)


def _put(task: Task, side: int, p: int, page: Expr, head: Expr, of_side: int) -> None:
    """While K (side 0) or V of the chunk's page p is computed: K or V of a page and head."""
    size = task.fmt.elements(task.shape.head_dim)
    found = task.page(page)
    place = ((found * task.shape.kv_heads + head) * 2 + of_side) * size
    T.buffer_store(task.scratch.ahead, place, [side * CHUNK_PAGES + p])
