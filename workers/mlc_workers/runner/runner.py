"""Compute a Plan: fill the arrays, call `step`, hand out the logits. The only user of the device.

One thread only: TVM's machine is not re-entrant, and its worker threads belong to the thread that
calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm_ffi
from numpy.typing import NDArray

from mlc_llm.compiler.abi import MAX_ROWS, round_up
from mlc_llm.weights.memory import ALIGNMENT, huge_empty
from mlc_workers.runner.final_norm import FinalNorm
from mlc_workers.runner.inputs import InputBuilder
from mlc_workers.runner.library import Library
from mlc_workers.runner.pool import Pool, copy_pages
from mlc_workers.scheduler.plan import Plan

AnyArray = NDArray[Any]


class Runner:
    """A model on this machine's CPU.

    `weights` are the packed tensors in the order of `tensor_specs`, `rope` is `rope_table(...)`,
    `page_table` the cache's array. All of them stay the caller's and are aligned to 64 bytes.
    """

    def __init__(
        self,
        library: Library,
        weights: Sequence[AnyArray],
        pool: Pool,
        rope: NDArray[np.float32],
        page_table: NDArray[np.int32],
        vocab_size: int,
        final_norm: FinalNorm,
        max_logits: int = 256,
    ) -> None:
        for array in (*weights, pool, rope, page_table):
            _check(array)
        self._step = library.step
        self._pool = pool
        self._vocab_size = vocab_size
        self._inputs = InputBuilder(page_table, pool.shape[2], library.threads)
        width = round_up(vocab_size, 16)
        self._logits: NDArray[np.float32] = huge_empty((max_logits, width), np.float32).view(
            np.float32
        )
        self._final_norm = final_norm
        self._hidden: NDArray[np.float32] = huge_empty(
            (MAX_ROWS, final_norm.size), np.float32
        ).view(np.float32)
        self._num_hidden = 0
        self._page_table, self._rope, self._pool_tensor = map(
            tvm_ffi.from_dlpack, (page_table, rope, pool)
        )
        self._weights = tvm_ffi.convert([tvm_ffi.from_dlpack(weight) for weight in weights])

    def run(self, plan: Plan) -> NDArray[np.float32]:
        """Logits float32[b, vocab_size], the rows of each span in order (see `Plan`).

        They are a view of memory that the next run overwrites.
        """
        copy_pages(self._pool, plan.copies)
        inputs = self._inputs.build(plan)
        logits = self._logits[: len(inputs.last)]
        self._num_hidden = len(inputs.taken)
        self._step(
            inputs.ids,
            inputs.positions,
            inputs.slots,
            self._page_table,
            inputs.tiles,
            inputs.last,
            inputs.taken,
            self._rope,
            self._pool_tensor,
            logits,
            self._hidden[: self._num_hidden],
            self._weights,
        )
        return logits[:, : self._vocab_size]

    def hidden(self) -> NDArray[np.float64]:
        """Hidden states float64[e, hidden_size] that the last run's plan wanted, in order."""
        return self._final_norm(self._hidden[: self._num_hidden])


def _check(array: AnyArray) -> None:
    """Kernels load whole vectors: an array that starts elsewhere would crash the process."""
    if array.ctypes.data % ALIGNMENT or not array.flags.c_contiguous:
        raise ValueError(f"an array of shape {array.shape} is not aligned to {ALIGNMENT} bytes")
