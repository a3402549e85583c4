"""What a process does once it has started."""

from __future__ import annotations

import gc

import mlc_llm
from mlc_llm.started import settle_down


def test_the_package_shows_what_it_has_and_has_what_it_shows() -> None:
    assert {"AsyncMLCEngine", "EngineConfig", "MLCEngine"} <= set(dir(mlc_llm))
    assert all(hasattr(mlc_llm, name) for name in dir(mlc_llm))


def test_collections_do_not_look_at_what_was_built_before() -> None:
    built = [[] for _ in range(3)]
    try:
        settle_down()
        later: list[object] = []
        tracked = gc.get_objects()
        assert not any(thing is built for thing in tracked)
        assert any(thing is later for thing in tracked)
    finally:
        gc.unfreeze()
