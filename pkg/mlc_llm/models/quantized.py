"""`quantization_config` of config.json: how weights that were quantized before lie in the files.

Knows no tensor; `weights.sources` decode them. What is not supported is refused by its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from mlc_llm.errors import BadModel
from mlc_llm.models.document import convert

KEPT = "q8f16_1"
"""The scheme for weights of odd codes: 8-bit groups are fine enough for what 2 to 6 bits say."""

Block = Annotated[int, Meta(ge=1, le=1 << 16)]


class Quantized(Struct, frozen=True):
    """How the matrices of a Hugging Face folder are coded."""

    method: str
    """"gptq", "awq", "fp8" or "gguf"."""
    bits: int = 4
    zero_offset: int = 1
    """Added to the zero points of GPTQ: its first version stores them less one."""
    block: tuple[int, int] | None = None
    """Rows and columns that share a scale of "fp8"; None is one scale for a matrix."""
    served: str | None = None
    """The scheme to serve with unless the user names one; None goes by size."""


class _Config(Struct, frozen=True):
    """The fields that matter, of all methods together."""

    quant_method: str | None = None
    bits: int | None = None
    w_bit: int | None = None
    version: str | None = None
    checkpoint_format: str | None = None
    weight_block_size: tuple[Block, Block] | None = None
    served: str | None = None


def quantized(values: dict[str, Any], path: Path) -> Quantized | None:
    """What config.json says of the codes; None for floats. Raises `BadModel`."""
    found = values.get("quantization_config")
    if found is None:
        return None
    config = convert(found, _Config, path, "quantization_config")
    method = (config.quant_method or "none").lower()
    bits = config.bits or config.w_bit or 4
    if method == "gptq":
        if bits not in (2, 4, 8) or config.checkpoint_format not in (None, "gptq", "gptq_v2"):
            form = config.checkpoint_format or "gptq"
            raise BadModel(
                f"{path}: GPTQ of {bits} bits as {form} is not supported; "
                "2, 4 and 8 bits as gptq or gptq_v2 are"
            )
        return Quantized(method, bits, int(config.checkpoint_format != "gptq_v2"), served=KEPT)
    if method == "awq":
        if bits != 4 or (config.version or "gemm").lower() != "gemm":
            raise BadModel(
                f"{path}: AWQ of {bits} bits, version {config.version} is not supported; "
                "4 bits, version gemm is"
            )
        return Quantized(method, bits, served=KEPT)
    if method == "fp8":
        return Quantized(method, 8, block=config.weight_block_size)
    if method == "gguf":
        return Quantized(method, served=config.served)
    raise BadModel(
        f"{path}: weights quantized by {method} are not supported; use gptq, awq or fp8 ones, "
        "or the model before it was quantized"
    )
