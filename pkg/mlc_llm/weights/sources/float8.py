"""Hugging Face checkpoints in float8: matrices of e4m3 whose 128 x 128 blocks have a scale each.

Stored as `X.weight` and `X.weight_scale_inv`, which is what values are multiplied with.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlc_llm.quantization.storage import BLOCK
from mlc_llm.weights.source import StoredTensor
from mlc_llm.weights.sources.mlc import SCALES, block_matrix

SUFFIX = "_scale_inv"


def decode_blocks(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors with every pair made one matrix of float32; raises `BadModel` for a wrong one."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in tensors:
            continue
        scales = tensors.get(name + SUFFIX)
        if scales is None or tensor.dtype != "F8_E4M3":
            found[name] = tensor
            continue
        shape = tuple(-(-size // BLOCK) for size in tensor.shape)
        if scales.shape != shape or len(shape) != 2:
            raise scales.fault(f"has shape {list(scales.shape)} where {list(shape)} is expected")
        if scales.dtype not in SCALES:
            raise scales.fault(f"has dtype {scales.dtype}; use one of {', '.join(SCALES)}")
        found[name] = block_matrix(name, tensor, scales, (BLOCK, BLOCK))
    return found
