"""Hugging Face checkpoints in float8 (e4m3), as DeepSeek's and vLLM's tools write them.

    X.weight    X.weight_scale_inv [blocks, blocks]   a scale for each block, 128 x 128 by default
    X.weight    X.weight_scale, one number            a scale for all of it
                X.input_scale                         of activations, which stay floats here

Values are multiplied with the scales, whatever they are called.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from mlc_llm.quantization.float8 import widen_e4m3
from mlc_llm.quantization.floats import FloatArray
from mlc_llm.quantization.storage import BLOCK
from mlc_llm.weights.source import DecodedTensor, StoredTensor, decoded, read_floats, read_rows
from mlc_llm.weights.sources.mlc import SCALES, block_matrix

BLOCK_SCALES, SCALE, INPUT_SCALE = "_scale_inv", "_scale", "input_scale"


def decode_blocks(
    tensors: Mapping[str, StoredTensor], block: tuple[int, int] | None = None
) -> dict[str, StoredTensor]:
    """The tensors with every pair made one matrix of float32; raises `BadModel` for a wrong one.

    `block` is `weight_block_size` of config.json.
    """
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        if _is_scale(name, tensors):
            continue
        if tensor.dtype == "F8_E4M3" and (scales := tensors.get(name + BLOCK_SCALES)) is not None:
            found[name] = _in_blocks(tensor, scales, block or (BLOCK, BLOCK))
        elif tensor.dtype == "F8_E4M3" and (scale := tensors.get(name + SCALE)) is not None:
            found[name] = _with_one_scale(tensor, scale)
        else:
            found[name] = tensor
    return found


def _is_scale(name: str, tensors: Mapping[str, StoredTensor]) -> bool:
    base, _, leaf = name.rpartition(".")
    if leaf == INPUT_SCALE:
        return f"{base}.weight{SCALE}" in tensors
    return any(
        name.endswith(suffix) and name.removesuffix(suffix) in tensors
        for suffix in (BLOCK_SCALES, SCALE)
    )


def _in_blocks(tensor: StoredTensor, scales: StoredTensor, block: tuple[int, int]) -> DecodedTensor:
    _refuse_dtype(scales)
    shape = tuple(-(-size // part) for size, part in zip(tensor.shape, block, strict=False))
    if len(tensor.shape) != 2 or scales.shape != shape:
        raise scales.fault(f"has shape {list(scales.shape)} where {list(shape)} is expected")
    return block_matrix(tensor.name, tensor, scales, block, tensor.shape[0])


def _with_one_scale(tensor: StoredTensor, scale: StoredTensor) -> DecodedTensor:
    _refuse_dtype(scale)
    if math.prod(scale.shape) != 1:
        raise scale.fault(f"has shape {list(scale.shape)} where one number is expected")
    number = msgspec.structs.replace(scale, shape=(1,))

    def values(first: int, last: int) -> FloatArray:
        return widen_e4m3(read_rows(tensor, first, last)) * read_floats(number, 0, 1)

    return decoded(tensor, tensor.name, tensor.shape, values)


def _refuse_dtype(scales: StoredTensor) -> None:
    if scales.dtype not in SCALES:
        raise scales.fault(f"has dtype {scales.dtype}; use one of {', '.join(SCALES)}")
