"""The function of a compiled model, `step`: what goes in, in which order and dtype.

The compiler builds `step` from this page and the engine's runner fills its arguments from it, so
prefill, decode, mixed batches and forked sequences all are the same call.

Symbolic sizes: n token rows (at most MAX_ROWS), s sequences, w page-table width, t attention tiles,
b logit rows, e hidden rows, P pages of the pool, c rows of the rotary table.

    ids        int32[n]        token ids of all rows, sequence after sequence
    positions  int32[n]        position of each row in its sequence
    slots      int32[n]        where the row's K and V go: page * PAGE_SIZE + position % PAGE_SIZE
    page_table int32[s, w]     pages of each sequence, in order; entries past its length are unread
    tiles      int32[t, 4]     attention work: (first row, rows <= TILE_ROWS, sequence, parts);
                               rows of one tile are consecutive positions of one sequence;
                               parts, the same in all tiles, divides Hkv: so many tasks share
                               the KV heads of a tile. If all tiles have one row it may be a
                               multiple of Hkv: then so many share a head's context, if
                               t Hkv <= MAX_SHARED
    last       int32[b]        rows whose logits are wanted
    taken      int32[e]        rows whose hidden states are wanted
    rope       float32[c, R]   cos then sin of every position, R/2 of each (NeoX halves);
                               R is `Architecture.rope_width`
    pool       kv[L, P, Hkv, 2, 16 * D]  the KV pool, written in place. D = head_dim rounded
                               up to 16. All heads of a page lie together, K and V of each side
                               by side: memory is fastest in long runs.
                               K of a page is stored transposed [D][16 tokens], V as [16 tokens][D];
                               in bfloat16, whose bits are uint16 here, two neighbours of the
                               first axis of each lie side by side (`kernels.cpu.kv_format`);
                               in int8, uint8 here, four of them, and 16 float32 scales follow each.
                               Of attention over latents kv[L, P, 1, 1, 16 * D]: a page is
                               [16 tokens][D], latent and rotated key of each
                               (`kernels.cpu.latent_pages`)
    logits     float32[b, V]   result, written in place; V = vocab_size rounded up to 16,
                               columns past vocab_size are junk
    hidden     float32[e, H]   result, written in place: rows of the last layer, before the norm
                               that stands before the head; H = hidden_size
    weights                    one tuple, in the order of `models.parameters.tensor_specs`

    returns    (logits, hidden)

All data starts at a multiple of 64 bytes. Intermediate results are planned for MAX_ROWS rows, once,
whatever n is: memory does not grow with the variety of steps, and rows never used cost no memory.

A row's result is bitwise the same in every batch: the order of its sums depends on nothing but the
row's own sequence. The greedy-equality and seed tests rest on this.

A library for 4-bit groups has `closest` as well (`kernels.cpu.closest`), with which weights are
quantized while they are loaded.
"""

from __future__ import annotations

PAGE_SIZE = 16
TILE_ROWS = 8
SEGMENT_TOKENS = 512
"""Tokens of context that one task attends to at least. With half as many, twice as many tasks could
share a context, and one that is not shared would take 2 % longer."""
MAX_SHARED = 64
"""Most KV heads of all tiles together whose contexts may be shared."""
MAX_ROWS = 2048
"""Most token rows of one step."""
STEP = "step"
SEARCH = "closest"
SEARCH_LANES = 16
"""What the number of groups that `closest` is given is a multiple of."""


def round_up(value: int, multiple: int) -> int:
    """The least multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple
