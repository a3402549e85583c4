"""The norm before the head, in NumPy: it makes hidden states out of the last layer's rows.

The compiled step applies it to the rows whose logits are wanted, joined with other work. Hidden
states are wanted seldom, and a few rows at a time, so the host may do it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc_llm.models.architecture import Architecture
from mlc_llm.models.parameters import tensor_specs
from mlc_llm.quantization.scheme import Scheme

NAME = "model.norm"


class FinalNorm:
    """`norm(rows)` of one model; `size` columns."""

    def __init__(self, arch: Architecture, scheme: Scheme, weights: Sequence[NDArray[Any]]) -> None:
        """`weights` are the packed tensors in the order of `tensor_specs`."""
        names = [spec.name for spec in tensor_specs(arch, scheme)]
        self.size = arch.hidden_size
        self._is_made = arch.encoder
        if arch.encoder:
            return
        self._eps = arch.rms_norm_eps
        self._centers = arch.norm == "layer"
        self._weight = weights[names.index(f"{NAME}.weight")].astype(np.float64)
        self._bias = np.zeros(1)
        if arch.norm_bias:
            self._bias = weights[names.index(f"{NAME}.bias")].astype(np.float64)

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """float64[n, size] of float32[n, size]; the rows of an encoder are its result."""
        x = rows.astype(np.float64)
        if self._is_made:
            return x
        if self._centers:
            x -= x.mean(-1, keepdims=True)
        scale = np.sqrt((x * x).mean(-1, keepdims=True) + self._eps)
        return np.asarray(x / scale * self._weight + self._bias)
