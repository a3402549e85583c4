"""The weight formats by MLC's names, and what each one means to a kernel."""

from __future__ import annotations

from typing import Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

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


KvDtype = Literal["float32", "float16", "bfloat16", "int8"]
"""What K and V are rounded to; int8 with a float32 scale for each token and head."""


SCALE_BYTES = 4


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


def with_kv(scheme: Scheme, kv_dtype: KvDtype | None) -> Scheme:
    """The scheme with this KV cache; None: its own."""
    return scheme if kv_dtype is None else replace(scheme, kv_dtype=kv_dtype)


def kv_storage(kv_dtype: KvDtype) -> str:
    """The element type of arrays of K and V: NumPy has no bfloat16, and int8 comes with scales."""
    return {"bfloat16": "uint16", "int8": "uint8"}.get(kv_dtype, kv_dtype)


def kv_width(kv_dtype: KvDtype) -> int:
    """Bytes of an element of `kv_storage`."""
    return {"float32": 4, "int8": 1}.get(kv_dtype, 2)


def kv_elements(kv_dtype: KvDtype, num_tokens: int, head_dim: int) -> int:
    """Elements of `kv_storage` that K, or V, of a page's tokens take for one head.

    Heads are rounded up to 16 columns.
    """
    columns = -(-head_dim // 16) * 16
    return num_tokens * (columns + (SCALE_BYTES if kv_dtype == "int8" else 0))


def scheme_by_name(name: str, kv_dtype: KvDtype | None = None) -> Scheme:
    """The scheme called `name`, with another KV cache than its own where `kv_dtype` says so.

    Raises `BadConfig` that lists the known ones.
    """
    try:
        return with_kv(SCHEMES[name], kv_dtype)
    except KeyError:
        known = ", ".join(SCHEMES)
        raise BadConfig(
            f"quantization {name!r} is not supported here; use one of {known}"
        ) from None
