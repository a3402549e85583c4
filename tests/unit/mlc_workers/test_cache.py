"""Pages, rows and the prefix cache by themselves."""

from __future__ import annotations

import pytest

from mlc_workers.cache.kv import KVCache
from mlc_workers.cache.pages import CacheCorrupt, PagePool
from mlc_workers.cache.tables import Sequence


def kv_cache(num_pages: int = 8, *, max_idle: int | None = None) -> KVCache:
    return KVCache(
        num_pages, max_num_sequence=4, max_pages_per_sequence=num_pages, max_idle=max_idle
    )


def filled(kv: KVCache, tokens: list[int]) -> Sequence:
    """A sequence with all of `tokens` computed, as far as they were not known."""
    sequence = kv.open(kv.match(tokens))
    kv.extend(sequence, len(tokens), [])
    sequence.length = len(tokens)
    kv.commit(sequence, tokens)
    return sequence


def test_a_shared_page_is_freed_only_with_its_last_reader() -> None:
    pool = PagePool(2)
    page = pool.reserve()
    pool.share(page)
    assert pool.release(page) == 1
    assert pool.num_free == 1
    assert pool.release(page) == 0
    assert pool.num_free == 2


def test_releasing_a_free_page_is_a_bug_that_is_noticed() -> None:
    pool = PagePool(1)
    with pytest.raises(CacheCorrupt, match="released but free"):
        pool.release(0)
    with pytest.raises(CacheCorrupt, match="shared but free"):
        pool.share(0)


def test_audit_finds_a_leaked_page_and_a_page_held_twice() -> None:
    pool = PagePool(3)
    page = pool.reserve()
    pool.audit([[page]])
    with pytest.raises(CacheCorrupt):
        pool.audit([])
    with pytest.raises(CacheCorrupt):
        pool.audit([[page], [page]])


def test_the_page_table_lists_the_pages_of_each_row() -> None:
    kv = kv_cache()
    first, second = filled(kv, list(range(20))), filled(kv, list(range(50, 60)))
    assert kv.table.array[first.row, :2].tolist() == first.pages
    assert kv.table.array[second.row, :1].tolist() == second.pages
    kv.audit()


def test_a_finished_conversation_is_found_again_but_never_all_of_it() -> None:
    kv = kv_cache()
    tokens = list(range(48))
    sequence = filled(kv, tokens)
    pages = list(sequence.pages)
    kv.close(sequence)
    assert kv.num_available == 8
    assert kv.match(tokens) == pages[:2]
    assert kv.match([*tokens, 1]) == pages
    assert kv.match([*tokens[:16], 99, *tokens[17:]]) == pages[:1]
    assert kv.match([99, *tokens[1:]]) == []


def test_equal_pages_after_different_beginnings_are_different_pages() -> None:
    kv = kv_cache()
    tail = list(range(16))
    kv.close(filled(kv, [1] * 16 + tail))
    second = filled(kv, [2] * 16 + tail)
    assert second.length == 32
    assert kv.match([1] * 16 + tail + [0]) != kv.match([2] * 16 + tail + [0])
    kv.audit()


def test_two_sequences_that_computed_the_same_page_end_up_sharing_it() -> None:
    kv = kv_cache()
    tokens = list(range(32))
    first, second = kv.open([]), kv.open([])
    for sequence in (first, second):
        kv.extend(sequence, 32, [])
    for sequence in (first, second):
        sequence.length = 32
        kv.commit(sequence, tokens)
    assert first.pages == second.pages
    assert kv.pool.num_free == 6
    kv.audit()


def test_pages_idle_longest_are_given_up_first_and_children_before_parents() -> None:
    kv = kv_cache(4)
    old, new = [1] * 32, [2] * 32
    kv.close(filled(kv, old))
    kv.close(filled(kv, new))
    other = kv.open([])
    kv.extend(other, 10, [])
    other.length = 10
    assert len(kv.match([*old, 0])) == 1
    assert len(kv.match([*new, 0])) == 2
    kv.audit()


def test_idle_pages_are_bounded() -> None:
    kv = kv_cache(max_idle=2)
    kv.close(filled(kv, list(range(64))))
    assert kv.prefix.num_idle == 2
    assert kv.pool.num_free == 6
    kv.audit()


def test_a_fork_copies_the_partial_page_and_its_last_reader_writes_in_place() -> None:
    kv = kv_cache()
    parent = filled(kv, list(range(20)))
    child = kv.fork(parent)
    assert child.pages == parent.pages
    copies: list[tuple[int, int]] = []
    assert kv.pages_needed(child, 21) == 1
    kv.extend(child, 21, copies)
    assert copies == [(parent.pages[1], child.pages[1])]
    assert child.pages[0] == parent.pages[0]
    assert kv.pages_needed(parent, 21) == 0
    kv.extend(parent, 21, copies)
    assert len(copies) == 1


def test_a_fork_at_a_page_border_copies_nothing() -> None:
    kv = kv_cache()
    parent = filled(kv, list(range(32)))
    child = kv.fork(parent)
    copies: list[tuple[int, int]] = []
    kv.extend(child, 33, copies)
    assert copies == []
    assert child.pages[:2] == parent.pages
    assert len(child.pages) == 3


def test_a_sequence_that_follows_another_gets_its_pages_in_the_same_order() -> None:
    for kv in (kv_cache(), kv_cache(max_idle=0)):
        first = filled(kv, list(range(120)))
        pages = list(first.pages)
        assert pages == sorted(pages)
        kv.close(first)
        assert filled(kv, list(range(200, 320))).pages == pages
        kv.audit()


def test_the_prefix_cache_gives_up_no_more_pages_than_are_needed() -> None:
    kv = kv_cache()
    kv.close(filled(kv, list(range(96))))
    filled(kv, list(range(200, 264)))
    assert (kv.prefix.num_idle, kv.pool.num_free) == (4, 0)
    assert kv.match(list(range(96))) == [0, 1, 2, 3]
