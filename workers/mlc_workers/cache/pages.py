"""Who reads which page of the KV pool. Knows numbers and counts, no sequence and no tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mlc_llm.compiler.abi import PAGE_SIZE


class CacheCorrupt(AssertionError):
    """The books of the cache do not add up; only a bug in this package can raise it."""


def pages_for(num_tokens: int) -> int:
    """Pages that hold `num_tokens` tokens."""
    return -(-num_tokens // PAGE_SIZE)


class PagePool:
    """`num_pages` pages, each free or counted once per reader.

    A page is free exactly when nobody reads it. Pages are handed out last freed first, so a run
    that is repeated uses the same pages.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))
        self._readers = [0] * num_pages

    @property
    def num_free(self) -> int:
        return len(self._free)

    def readers(self, page: int) -> int:
        """How many hold this page."""
        return self._readers[page]

    def reserve(self) -> int:
        """A free page, now with one reader. The caller has checked `num_free`."""
        page = self._free.pop()
        self._readers[page] = 1
        return page

    def share(self, page: int) -> None:
        """One more reader of a page that is held."""
        if not self._readers[page]:
            raise CacheCorrupt(f"page {page} is shared but free")
        self._readers[page] += 1

    def release(self, page: int) -> int:
        """One reader less; the page is free when the last one has left. Returns how many remain."""
        remaining = self._readers[page] - 1
        if remaining < 0:
            raise CacheCorrupt(f"page {page} is released but free")
        self._readers[page] = remaining
        if not remaining:
            self._free.append(page)
        return remaining

    def audit(self, holders: Iterable[Iterable[int]]) -> None:
        """Prove that no page leaked or is used twice; `holders` are all lists of pages held."""
        held = Counter(page for pages in holders for page in pages)
        free = set(self._free)
        if len(free) != len(self._free):
            raise CacheCorrupt("a page is free twice")
        for page, count in enumerate(self._readers):
            if count != held[page]:
                raise CacheCorrupt(f"page {page} counts {count} readers but {held[page]} hold it")
            if (count == 0) != (page in free):
                raise CacheCorrupt(f"page {page} has {count} readers and is free: {page in free}")
