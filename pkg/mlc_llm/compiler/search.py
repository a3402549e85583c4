"""The compiled search for scales of 4-bit groups, as those who load weights call it."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm_ffi

from mlc_llm.compiler.abi import SEARCH, SEARCH_LANES
from mlc_llm.quantization.floats import FloatArray
from mlc_llm.quantization.group import HalfArray, WordArray
from mlc_llm.quantization.search import Search, search_groups


def search_of(module: Any) -> Search | None:
    """The search of a loaded library, None where it has none."""
    try:
        kernel = module.get_function(SEARCH, query_imports=True)
    except AttributeError:
        return None

    def search(grouped: FloatArray, scales: HalfArray, words: WordArray) -> None:
        whole = len(scales) // SEARCH_LANES * SEARCH_LANES
        if whole:
            values = np.require(grouped[:whole].reshape(-1), requirements=["C", "W"])
            arrays = scales[:whole], words[:whole].reshape(-1).view(np.int32), values
            kernel(*map(tvm_ffi.from_dlpack, arrays))
        search_groups(grouped[whole:], scales[whole:], words[whole:])

    return search
