"""The weight formats by MLC's names, and what each one means to a kernel."""

from __future__ import annotations

from typing import Literal, NamedTuple

from msgspec import Struct

from mlc_llm.errors import BadConfig
from mlc_llm.quantization.storage import is_plain, is_table

WeightFormat = Literal["f32", "f16", "q4", "q8"]
"""How a kernel reads a matrix: plain floats, or 4-bit or 8-bit groups of 32 with float16 scales."""


class Codes(NamedTuple):
    """Whole numbers that, times their group's scale, are weights."""

    bits: int

    @property
    def zero(self) -> int:
        """The code that stands for zero; codes reach from 0 to twice it."""
        return (1 << self.bits - 1) - 1

    @property
    def words(self) -> int:
        """Words of 32 bits in a group."""
        return GROUP_SIZE * self.bits // 32


GROUP_SIZE = 32
"""Weights that share one scale, along the input axis."""

CODES: dict[WeightFormat, Codes] = {"q4": Codes(4), "q8": Codes(8)}
"""The formats whose products take activations quantized to 8 bits."""


KvDtype = Literal["float32", "float16", "bfloat16"]
"""What K and V are rounded to."""


class Scheme(Struct, frozen=True):
    """One row of the table below."""

    name: str
    weights: WeightFormat
    kv_dtype: KvDtype
    tables: WeightFormat | None = None
    """Of embeddings and the head, where it is not that of the other matrices."""

    def format_of(self, name: str) -> WeightFormat:
        """The format of the matrix of this name (as in `models.parameters`)."""
        if is_plain(name):
            return "f16" if self.weights in CODES else self.weights
        return (self.tables if is_table(name) else None) or self.weights


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("q0f32", "f32", "float32"),
        Scheme("q0f16", "f16", "float16"),
        Scheme("q4f16_1", "q4", "bfloat16"),
        Scheme("q4f16_2", "q4", "bfloat16", tables="f16"),
        Scheme("q4f32_1", "q4", "float32"),
        Scheme("q8f16_1", "q8", "bfloat16"),
    )
}


def kv_storage(kv_dtype: KvDtype) -> str:
    """The element type of arrays of K and V: NumPy has no bfloat16."""
    return "uint16" if kv_dtype == "bfloat16" else kv_dtype


def scheme_by_name(name: str) -> Scheme:
    """The scheme called `name`; raises `BadConfig` that lists the known ones."""
    try:
        return SCHEMES[name]
    except KeyError:
        known = ", ".join(SCHEMES)
        raise BadConfig(
            f"quantization {name!r} is not supported here; use one of {known}"
        ) from None
