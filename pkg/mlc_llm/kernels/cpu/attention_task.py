"""What a task of paged attention works on: the kernel's tensors, its state, and where it stands.

A task is a tile of rows and a part of the KV heads. It is computed in blocks of queries, whose sums
share the registers, and goes through the pages of the sequence in chunks.
"""

from __future__ import annotations

from typing import NamedTuple

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import Var

from mlc_llm.compiler.abi import PAGE_SIZE, round_up
from mlc_llm.kernels.cpu.kv_bytes import DIGITS, Queries, queries
from mlc_llm.kernels.cpu.kv_format import LANES, KvFormat
from mlc_llm.kernels.cpu.level import TRAITS
from mlc_llm.kernels.cpu.quantize import Quantized
from mlc_llm.kernels.cpu.vector import arg, span, symbol
from mlc_llm.quantization.scheme import GROUP_SIZE, Codes, KvDtype

CHUNK_PAGES = 8

MASKED = -1e30

ACCUMULATORS = {16: 16, 8: 6, 4: 2}
"""By a register's float32 lanes: vectors of LANES that fit the registers beside their operands."""


class Shape(NamedTuple):
    """Static sizes of a model's attention."""

    heads: int
    kv_heads: int
    head_dim: int
    kv_dtype: KvDtype
    window: int | None = None
    """Latest tokens that a row attends to, its own included; None is all."""
    softcap: float | None = None

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.heads // self.kv_heads

    @property
    def padded(self) -> int:
        """Head size in the pool."""
        return round_up(self.head_dim, LANES)

    @property
    def vectors(self) -> int:
        """Vectors of columns in a head."""
        return self.padded // LANES


class Block(NamedTuple):
    """What shares registers: `rows` tokens of a tile x `heads` of a group are its queries."""

    rows: int
    heads: int
    pages: int
    """Pages whose scores are summed together."""
    vectors: int
    """Vectors of V whose sums are carried together."""

    @property
    def queries(self) -> int:
        return self.rows * self.heads


class Arguments(NamedTuple):
    """The kernel's tensors."""

    q: Var
    pool: Var
    table: Var
    tiles: Var
    positions: Var
    layer: Var
    out: Var | Quantized


class Vectors(NamedTuple):
    """Some vectors of an array."""

    array: Var
    first: int
    """Of the array's vectors."""

    def get(self, index: Expr, start: Expr | int = 0, lanes: int = LANES) -> Expr:
        """The index-th vector, or so many lanes that begin `start` lanes later."""
        return self.array[span((index + self.first) * LANES + start, lanes)]

    def put(self, index: Expr, value: Expr) -> None:
        """Assign the index-th vector."""
        T.buffer_store(self.array, value, [at(index + self.first)])


class Sums(NamedTuple):
    """What attending has come to, of each of a task's queries: vectors [query], and [query][d]."""

    top: Vectors
    """Largest score so far, in all lanes."""
    total: Vectors
    """Sum of weights so far, one partial sum a lane."""
    values: Vectors
    """Weighted sums of V so far."""


class Scratch(NamedTuple):
    """State of one block of queries, in memory: vectors [query], or [query][page]."""

    segment: Sums
    """Over the segment of the context that is gone through, and with those before it in the end."""
    earlier: Sums
    """Over the segments before it."""
    fade: Var
    """What the sums of the chunks before this one are multiplied by."""
    scores: Var
    """Scores of the chunk, then their weights."""
    factors: Var
    """The weights as values are multiplied by them; `scores` itself where that is float32."""
    queries: Queries | None
    """Queries in bytes, where they are multiplied so; then `factors` has the digits of weights."""
    units: Var
    """What sums of V that are whole numbers are multiplied by."""
    ahead: Var
    """[K or V][page of the chunk]: where in the layer lies what memory is asked for meanwhile."""


class Work(NamedTuple):
    """Where one block of queries stands, as bound expressions."""

    rows: list[Expr]
    """Row of each of the block's token rows; rows past the tile repeat its last."""
    part: Expr
    """Which `block.heads` of each group these are."""
    first_head: Expr
    """First KV head of the task."""
    heads: Expr
    """KV heads of the task."""
    seq: Expr
    end: Expr
    """Tokens that the block's last row sees."""
    num_pages: Expr


class Here(NamedTuple):
    """One KV head of a task in one chunk."""

    nth: Expr
    """Of the task's heads."""
    page0: Expr
    count: Expr
    """Pages of the chunk that the sequence has."""


class Task(NamedTuple):
    """One block of queries of a task."""

    fmt: KvFormat
    shape: Shape
    block: Block
    args: Arguments
    scratch: Scratch
    work: Work

    def page(self, index: Expr) -> Expr:
        """The pool's page that is the index-th of the sequence, or its last."""
        last = self.work.num_pages - 1
        return T.bind(T.Cast("int64", self.args.table[self.work.seq, T.min(index, last)]))

    def scales(self, page: Expr, head: Expr, side: int) -> Expr:
        """Scales of a page's tokens, of K (side 0) or of V."""
        pool, layer = self.args.pool, self.args.layer
        found = self.fmt.scales(lambda at: pool[layer, page, head, side, at], self.shape.padded)
        return T.bind(found)

    def row_of(self, query: int) -> Expr:
        """Row of a query of the block."""
        return self.work.rows[query // self.block.heads]


def block_of(fmt: KvFormat, shape: Shape, most_rows: int) -> Block:
    """The largest block of at most `most_rows` token rows whose sums fit the registers."""
    room = ACCUMULATORS[TRAITS[fmt.level].lanes]
    heads = _divisor(shape.group, min(8, room))
    rows = _divisor(most_rows, max(1, min(8, room) // heads))
    spare = max(1, room // (rows * heads))
    of_values = max(1, spare // DIGITS) if fmt.counts else spare
    pages, vectors = _divisor(CHUNK_PAGES, spare), _divisor(shape.vectors, of_values)
    return Block(rows, heads, pages, vectors)


def _divisor(value: int, most: int) -> int:
    """The largest divisor of `value` that is at most `most`."""
    return next(d for d in range(min(value, most), 0, -1) if value % d == 0)


def new_arguments(fmt: KvFormat, shape: Shape, codes: Codes | None) -> Arguments:
    """Append the parameters; with `codes` the result is quantized for weights that are such."""
    n = symbol("n")
    page = fmt.elements(shape.head_dim)
    pool = (symbol("layers"), symbol("pages"), shape.kv_heads, 2, page)
    return Arguments(
        arg("q", (n, shape.heads, shape.padded), fmt.factor_dtype),
        arg("pool", pool, fmt.dtype),
        arg("page_table", (symbol("seqs"), symbol("width")), "int32"),
        arg("tiles", (symbol("tiles"), 4), "int32"),
        arg("positions", (n,), "int32"),
        T.arg("layer", T.int64()),
        _result(n, shape.heads * shape.head_dim, codes),
    )


def _result(n: Var, columns: int, codes: Codes | None) -> Var | Quantized:
    if codes is None:
        return arg("out", (n, columns), "float32")
    return Quantized(columns // GROUP_SIZE, codes)


def new_scratch(fmt: KvFormat, shape: Shape, block: Block) -> Scratch:
    """Memory for the state of a block, for all KV heads."""

    def vectors(count: int, dtype: str = "float32") -> Var:
        return T.alloc_buffer((count * LANES,), dtype, scope="global")

    all_queries = block.queries * shape.kv_heads

    def sums() -> Sums:
        found = vectors(all_queries * (2 + shape.vectors))
        return Sums(*(Vectors(found, all_queries * first) for first in range(3)))

    scores = factors = vectors(block.queries * CHUNK_PAGES)
    if fmt.counts:
        factors = vectors(block.queries * CHUNK_PAGES * DIGITS, "uint8")
    elif fmt.dots:
        factors = vectors(block.queries * CHUNK_PAGES, fmt.factor_dtype)
    fades = vectors(block.queries)
    return Scratch(
        sums(),
        sums(),
        fades,
        scores,
        factors,
        queries(all_queries, shape.padded) if fmt.counts else None,
        vectors(block.queries) if fmt.counts else fades,
        T.alloc_buffer((2 * CHUNK_PAGES,), "int64", scope="global"),
    )


def at(index: Expr | int) -> Expr:
    """The index-th vector of a scratch array."""
    return span(index * LANES, LANES)


def first_token(page: Expr) -> Expr:
    """Position where the sequence's page begins."""
    return page * PAGE_SIZE
