"""The KV pool: one array that `step` writes and reads, and that pages are copied in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_llm.models.architecture import Architecture
from mlc_llm.quantization.scheme import Scheme, kv_elements, kv_storage
from mlc_llm.weights.memory import huge_empty

Pool = NDArray[Any]


def pool_shape(arch: Architecture, scheme: Scheme, num_pages: int) -> tuple[int, ...]:
    """[layers, pages, KV heads, vectors of a head, elements]; layout in `compiler.abi`."""
    heads, vectors, width = arch.kv_page
    page = kv_elements(scheme.kv_dtype, PAGE_SIZE, width)
    return (arch.num_hidden_layers, num_pages, heads, vectors, page)


def page_bytes(arch: Architecture, scheme: Scheme) -> int:
    """Memory of one page in all layers."""
    shape = pool_shape(arch, scheme, 1)
    return int(np.prod(shape)) * np.dtype(kv_storage(scheme.kv_dtype)).itemsize


def new_pool(arch: Architecture, scheme: Scheme, num_pages: int) -> Pool:
    """A pool on huge pages. It takes memory as its pages are first written."""
    return huge_empty(pool_shape(arch, scheme, num_pages), kv_storage(scheme.kv_dtype))


def copy_pages(pool: Pool, copies: tuple[tuple[int, int], ...]) -> None:
    """Copy pages (source, target) in all layers, in order."""
    for source, target in copies:
        pool[:, target] = pool[:, source]
