"""The KV cache as the scheduler sees it: open a sequence, extend it, commit, fork, close.

Ties the pool, the page table and the prefix cache together and keeps their books equal. Between
steps a sequence holds exactly the pages of its computed tokens.
"""

from __future__ import annotations

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_workers.cache.pages import CacheCorrupt, PagePool, pages_for
from mlc_workers.cache.prefix import ROOT, PrefixCache
from mlc_workers.cache.tables import PageTable, Sequence

Copies = list[tuple[int, int]]
"""(source page, target page), to be carried out in this order before the step runs."""


class KVCache:
    """All pages and rows of one engine."""

    def __init__(
        self,
        num_pages: int,
        max_num_sequence: int,
        max_pages_per_sequence: int,
        *,
        prefix_cache: bool = True,
        max_idle: int | None = None,
    ) -> None:
        self.pool = PagePool(num_pages)
        self.table = PageTable(max_num_sequence, max_pages_per_sequence)
        self.prefix = PrefixCache(self.pool, max_idle if prefix_cache else 0)
        self._use_prefix = prefix_cache
        self.sequences: set[Sequence] = set()
        self.num_releases = 0
        """Grows whenever pages or rows may have become available."""

    @property
    def num_available(self) -> int:
        """Pages that can be had: free ones, and idle ones that the prefix cache would give up."""
        return self.pool.num_free + self.prefix.num_idle

    def match(self, tokens: list[int]) -> list[int]:
        """Known pages with the beginning of `tokens`; give them to `open` before anything else
        changes.
        """
        return self.prefix.match(tokens) if self._use_prefix else []

    def open(self, matched: list[int]) -> Sequence:
        """A sequence that begins with `matched` pages. The caller has checked for a free row."""
        sequence = Sequence(self.table.reserve())
        for page in matched:
            self.prefix.hold(page)
        sequence.pages = matched
        sequence.num_registered = len(matched)
        sequence.length = sequence.writable = len(matched) * PAGE_SIZE
        self.table.array[sequence.row, : len(matched)] = matched
        self.sequences.add(sequence)
        return sequence

    def pages_needed(self, sequence: Sequence, upto: int) -> int:
        """Pages to be found before positions below `upto` can be written."""
        return pages_for(upto) - len(sequence.pages) + self._tail_is_shared(sequence)

    def extend(self, sequence: Sequence, upto: int, copies: Copies) -> None:
        """Make positions below `upto` writable. The caller has checked `pages_needed`.

        What the prefix cache must give up for that, it gives up at once and before: last page
        first, so that the pages of a new sequence follow one another as those of the old one did.
        """
        for _ in range(self.pages_needed(sequence, upto) - self.pool.num_free):
            self.prefix.evict()
        pages = sequence.pages
        first = len(pages)
        if self._tail_is_shared(sequence):
            first -= 1
            source = pages.pop()
            pages.append(self.pool.reserve())
            copies.append((source, pages[-1]))
            self.pool.release(source)
        while len(pages) * PAGE_SIZE < upto:
            pages.append(self.pool.reserve())
        sequence.writable = len(pages) * PAGE_SIZE
        self.table.array[sequence.row, first : len(pages)] = pages[first:]

    def commit(self, sequence: Sequence, tokens: list[int]) -> None:
        """`sequence.length` has grown: make the pages that are now full known.

        `tokens` are all tokens of the sequence, the first `length` of them computed.
        """
        if not self._use_prefix:
            return
        pages = sequence.pages
        for i in range(sequence.num_registered, sequence.length // PAGE_SIZE):
            parent = pages[i - 1] if i else ROOT
            page = pages[i]
            known = self.prefix.insert(
                parent, tuple(tokens[i * PAGE_SIZE : (i + 1) * PAGE_SIZE]), page
            )
            if known != page:
                self.prefix.hold(known)
                self._release(page)
                self.num_releases += 1
                pages[i] = known
                self.table.array[sequence.row, i] = known
        sequence.num_registered = sequence.length // PAGE_SIZE

    def fork(self, parent: Sequence) -> Sequence:
        """A second sequence with the same tokens; no page is copied until one of the two writes.

        The caller has checked that a row is free.
        """
        child = Sequence(self.table.reserve())
        for page in parent.pages:
            self.pool.share(page)
        child.pages = parent.pages.copy()
        child.length = parent.length
        child.num_registered = parent.num_registered
        child.writable = parent.writable = parent.length
        self.table.array[child.row, : len(child.pages)] = child.pages
        self.sequences.add(child)
        return child

    def close(self, sequence: Sequence) -> None:
        """Let go of everything, last page first (see `prefix`)."""
        for page in reversed(sequence.pages):
            self._release(page)
        sequence.pages = []
        self.num_releases += 1
        self.table.release(sequence.row)
        self.sequences.remove(sequence)

    def clear(self) -> None:
        """Forget every known page that no sequence reads."""
        self.prefix.clear()
        self.num_releases += 1

    def audit(self) -> None:
        """Prove that all books agree; raises `CacheCorrupt`."""
        self.pool.audit([*(s.pages for s in self.sequences), self.prefix.pages()])
        self.table.audit(list(self.sequences))
        self.prefix.audit()
        for sequence in self.sequences:
            if len(sequence.pages) != pages_for(sequence.length):
                raise CacheCorrupt(f"row {sequence.row} holds pages that it has no tokens for")

    def _tail_is_shared(self, sequence: Sequence) -> bool:
        """Whether the last page is partial and another sequence reads it too."""
        pages = sequence.pages
        return (
            sequence.writable < len(pages) * PAGE_SIZE and self.pool.readers(sequence.pages[-1]) > 1
        )

    def _release(self, page: int) -> None:
        if self.pool.release(page) == 1:
            self.prefix.left(page)
