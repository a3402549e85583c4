"""The metrics registry and its text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_llm.metrics.prometheus import render
from mlc_llm.metrics.registry import MAX_SERIES, OTHER, Registry


def test_a_counter_counts_per_label_set() -> None:
    counter = Registry().counter("requests_total", "Requests.", ["code"])
    counter.inc("200")
    counter.inc("200", by=2)
    counter.inc("404")
    assert counter.get("200") == 3
    assert counter.get("404") == 1
    assert counter.get("500") == 0


def test_label_sets_beyond_the_bound_are_counted_together() -> None:
    counter = Registry().counter("requests_total", "Requests.", ["path"])
    for i in range(MAX_SERIES + 10):
        counter.inc(f"/{i}")
    assert counter.get(OTHER) == 10
    assert len(list(counter.samples())) == MAX_SERIES + 1


def test_a_name_is_used_once() -> None:
    registry = Registry()
    registry.gauge("up", "Up.")
    with pytest.raises(ValueError, match="already"):
        registry.counter("up", "Up.")


def test_wrong_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="labels"):
        Registry().counter("a_total", "A.", ["x"]).inc()


@given(st.lists(st.floats(0, 10), max_size=50))
def test_a_histogram_counts_every_observation_in_all_buckets_above_it(values: list[float]) -> None:
    bounds = (0.5, 1.0, 5.0)
    histogram = Registry().histogram("h", "H.", bounds)
    for value in values:
        histogram.observe(value)
    samples = {(s.suffix, *s.labels): s.value for s in histogram.samples()}
    for bound in bounds:
        assert samples["_bucket", ("le", repr(bound))] == sum(v <= bound for v in values)
    assert samples["_bucket", ("le", "+Inf")] == len(values) == histogram.count
    assert samples["_sum",] == pytest.approx(sum(values))


def test_observing_several_times_is_observing_once_each() -> None:
    one, many = (Registry().histogram("h", "H.", (1,)) for _ in range(2))
    one.observe(0.25, times=4)
    for _ in range(4):
        many.observe(0.25)
    assert list(one.samples()) == list(many.samples())


def test_a_histogram_of_another_process_is_taken_over_whole() -> None:
    theirs, ours = (Registry().histogram("h", "H.", (1, 8)) for _ in range(2))
    for value in (1, 2, 8, 9):
        theirs.observe(value)
    ours.set(*theirs.counted())
    assert list(ours.samples()) == list(theirs.samples())
    with pytest.raises(ValueError, match="buckets"):
        ours.set([1, 2], 3)


SAMPLE = re.compile(
    r'[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-z_]+="([^"\\\n]|\\.)*",?)*\})? (-?[0-9.e+-]+|\+Inf)'
)


@given(st.text(max_size=20), st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_every_line_is_valid_exposition_text(label: str, value: float) -> None:
    registry = Registry({"model_name": label})
    registry.gauge("g", "A\nhelp \\ text.", ["kind"]).set(label, to=value)
    registry.histogram("h", "H.", (0.5, 1)).observe(1)
    for line in render(registry).rstrip("\n").split("\n"):
        assert line.startswith(("# HELP ", "# TYPE ")) or SAMPLE.fullmatch(line), line


def test_the_text_of_a_small_registry() -> None:
    registry = Registry({"model": 'a"b'})
    registry.counter("x_total", "X.").inc(by=2)
    assert (
        render(registry) == '# HELP x_total X.\n# TYPE x_total counter\nx_total{model="a\\"b"} 2\n'
    )
