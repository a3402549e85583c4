"""Finds the longest known beginning of a prompt, in full pages.

A page is known by (page of its predecessor, its 16 token ids): equal keys mean equal tokens all the
way to the start, because a page number names one content for as long as the page is known. Nothing
rests on a hash being free of collisions.

The cache is itself one reader of each page it knows. A page without any other reader is idle: it
can be matched again or be given up, least recently used first. Sequences let go of their pages last
page first and always hold a page's predecessors with it, so a page is idle before its predecessors
are, and is given up before them: no known page ever outlives the one that its key names.
"""

from __future__ import annotations

from collections.abc import Iterator

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_workers.cache.pages import CacheCorrupt, PagePool

Key = tuple[int, tuple[int, ...]]

ROOT = -1
"""Stands for the predecessor of a first page."""


class PrefixCache:
    """Known full pages of one pool; at most `max_idle` of them idle (None: as many as the pool
    has).
    """

    def __init__(self, pool: PagePool, max_idle: int | None = None) -> None:
        self._pool = pool
        self._max_idle = pool.num_pages if max_idle is None else max_idle
        self._pages: dict[Key, int] = {}
        self._keys: dict[int, Key] = {}
        self._idle: dict[int, None] = {}

    @property
    def num_idle(self) -> int:
        return len(self._idle)

    @property
    def num_known(self) -> int:
        return len(self._keys)

    def pages(self) -> Iterator[int]:
        """Every page that the cache reads."""
        return iter(self._keys)

    def match(self, tokens: list[int]) -> list[int]:
        """Known pages that hold the beginning of `tokens`, the last token never included."""
        found: list[int] = []
        parent = ROOT
        for start in range(0, len(tokens) - PAGE_SIZE, PAGE_SIZE):
            page = self._pages.get((parent, tuple(tokens[start : start + PAGE_SIZE])))
            if page is None:
                break
            found.append(page)
            parent = page
        return found

    def num_idle_of(self, pages: list[int]) -> int:
        """How many of `pages` are idle."""
        return sum(page in self._idle for page in pages)

    def hold(self, page: int) -> None:
        """A sequence reads a known page."""
        self._pool.share(page)
        self._idle.pop(page, None)

    def insert(self, parent: int, tokens: tuple[int, ...], page: int) -> int:
        """Know `page` as what follows `parent`; returns the page that is known for these tokens.

        When that is another page, the caller moves to it: both hold the same keys and values.
        """
        key = (parent, tokens)
        known = self._pages.setdefault(key, page)
        if known == page:
            self._keys[page] = key
            self._pool.share(page)
        return known

    def left(self, page: int) -> None:
        """A page was let go of by a sequence and one reader remains: idle if that is the cache."""
        if page in self._keys:
            self._idle[page] = None
            if len(self._idle) > self._max_idle:
                self.evict()

    def evict(self) -> None:
        """Give up the idle page that has been idle longest."""
        page = next(iter(self._idle))
        del self._idle[page]
        del self._pages[self._keys.pop(page)]
        self._pool.release(page)

    def clear(self) -> None:
        """Give up every idle page."""
        while self._idle:
            self.evict()

    def audit(self) -> None:
        """Prove that keys and pages agree, that idle means idle, and that no page outlives its
        parent.
        """
        if {page: key for key, page in self._pages.items()} != self._keys:
            raise CacheCorrupt("known pages and their keys disagree")
        for page, (parent, _) in self._keys.items():
            if parent != ROOT and parent not in self._keys:
                raise CacheCorrupt(f"page {page} is known but its predecessor {parent} is not")
            if (self._pool.readers(page) == 1) != (page in self._idle):
                raise CacheCorrupt(f"page {page} is idle in one book only")
        order = {page: i for i, page in enumerate(self._idle)}
        for page in order:
            parent = self._keys[page][0]
            if order.get(parent, len(order)) < order[page]:
                raise CacheCorrupt(f"page {page} would be given up after its predecessor {parent}")
