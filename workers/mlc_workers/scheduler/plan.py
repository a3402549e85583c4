"""The decision of one step, as a value: which sequences compute which tokens, on which pages.

The scheduler makes it, the runner obeys it, the scheduler settles it. Page tables are not copied
into it: the runner reads the rows of the cache's table array that the spans name.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct


class Span(Struct, frozen=True, gc=False):
    """Consecutive tokens of one sequence, computed in this step."""

    row: int
    """Row of the sequence in the page-table array."""
    start: int
    """Position of the first token."""
    tokens: Sequence[int]
    """Token ids; positions start .. start + len - 1 have pages reserved."""
    sample: bool
    """Whether the logits after the last token are wanted."""
    first_read: int = 0
    """Offset of the first token whose result is wanted for itself ..."""
    num_read: int = 0
    """... and how many from there on. Beside these, `sample` may want the last one."""
    pooled: bool = False
    """Whether the results that are read are hidden states, in place of logits."""


class Plan(Struct, frozen=True, gc=False):
    """One step. A span yields a row of logits for each token that is read, and one more when it
    samples; spans follow each other in order.
    """

    spans: tuple[Span, ...]
    copies: tuple[tuple[int, int], ...] = ()
    """(source page, target page) to copy in all layers before the step runs: copy-on-write."""

    @property
    def num_tokens(self) -> int:
        """Rows the device computes."""
        return sum(len(span.tokens) for span in self.spans)
