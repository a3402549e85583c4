"""What a process that serves does once, when all that it was built of is there."""

from __future__ import annotations

import ctypes
import gc


def settle_down() -> None:
    """Give back what only building needed, and never look at the rest again.

    Collections would go through everything that was imported and built, which stops all streams for
    10 ms or more each time. The C library keeps tens of megabytes that the reading of a tokenizer
    has freed, and gives them back only when asked.
    """
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)
