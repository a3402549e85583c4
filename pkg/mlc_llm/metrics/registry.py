"""Counters, gauges and histograms in memory, bounded: the number of series is known beforehand.

Single-threaded values without a clock. How they are written down is `metrics.prometheus`'s affair.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

MAX_SERIES = 64
"""Label sets one metric may have; later ones are counted under `OTHER`."""
OTHER = "other"

SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5)
"""Buckets for the time to a first token."""
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
"""Buckets for the time between tokens."""
REQUEST_SECONDS = (
    0.1,
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    30.0,
    60.0,
    120.0,
    480.0,
)
"""Buckets for whole requests and their phases."""
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
"""Buckets for token counts."""
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Buckets for the tokens of a step."""


class Sample(NamedTuple):
    """One line of an exposition."""

    suffix: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Value:
    """A counter or a gauge, one number per label set."""

    def __init__(
        self, name: str, help: str, kind: Literal["counter", "gauge"], labels: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.help = help
        self.kind: Literal["counter", "gauge", "histogram"] = kind
        self.labels = tuple(labels)
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def inc(self, *labels: str, by: float = 1.0) -> None:
        """Adds `by` to the series of these label values."""
        key = self._key(labels)
        self._values[key] = self._values.get(key, 0.0) + by

    def set(self, *labels: str, to: float) -> None:
        """Sets the series; for gauges, and for counters that another process counts."""
        self._values[self._key(labels)] = to

    def get(self, *labels: str) -> float:
        """The number now; 0 for a series never touched."""
        return self._values.get(labels, 0.0)

    def samples(self) -> Iterator[Sample]:
        """Every series, sorted by its labels."""
        for key in sorted(self._values):
            yield Sample("", tuple(zip(self.labels, key, strict=True)), self._values[key])

    def _key(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {len(labels)} values")
        if labels in self._values or len(self._values) < MAX_SERIES:
            return labels
        return (OTHER,) * len(self.labels)


class Histogram:
    """Counts of observations below fixed bounds, with their sum."""

    kind: Literal["histogram"] = "histogram"

    def __init__(self, name: str, help: str, buckets: Sequence[float]) -> None:
        if list(buckets) != sorted(set(buckets)):
            raise ValueError(f"the buckets of {name} must rise")
        self.name = name
        self.help = help
        self.buckets = tuple(float(bound) for bound in buckets)
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0

    @property
    def count(self) -> int:
        """Observations so far."""
        return sum(self._counts)

    def observe(self, value: float, times: int = 1) -> None:
        """`value` was seen `times` times. A bound belongs to its bucket."""
        self._counts[bisect_left(self.buckets, value)] += times
        self._sum += value * times

    def counted(self) -> tuple[list[int], float]:
        """Observations by bucket, those above the last bound included, and their sum."""
        return list(self._counts), self._sum

    def set(self, counts: Sequence[int], total: float) -> None:
        """What another process has `counted` in the same buckets."""
        if len(counts) != len(self._counts):
            raise ValueError(f"{self.name} has {len(self._counts)} buckets, not {len(counts)}")
        self._counts, self._sum = list(counts), total

    def samples(self) -> Iterator[Sample]:
        """Cumulative buckets, then sum and count."""
        total = 0
        for bound, count in zip((*self.buckets, float("inf")), self._counts, strict=True):
            total += count
            yield Sample("_bucket", (("le", _bound(bound)),), total)
        yield Sample("_sum", (), self._sum)
        yield Sample("_count", (), total)


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else repr(bound)


Metric = Value | Histogram


class Registry:
    """Metrics by name, with labels that all of them carry."""

    def __init__(self, constant_labels: Mapping[str, str] | None = None) -> None:
        self.constant_labels = dict(constant_labels or {})
        self._metrics: dict[str, Metric] = {}

    def counter(self, name: str, help: str, labels: Sequence[str] = ()) -> Value:
        """A new counter; by custom its name ends in `_total`."""
        return self._add(Value(name, help, "counter", labels))

    def gauge(self, name: str, help: str, labels: Sequence[str] = ()) -> Value:
        """A new gauge."""
        return self._add(Value(name, help, "gauge", labels))

    def histogram(self, name: str, help: str, buckets: Sequence[float]) -> Histogram:
        """A new histogram with these upper bounds."""
        metric = Histogram(name, help, buckets)
        self._claim(metric)
        return metric

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._metrics.values())

    def _add(self, metric: Value) -> Value:
        self._claim(metric)
        return metric

    def _claim(self, metric: Metric) -> None:
        if metric.name in self._metrics:
            raise ValueError(f"there is already a metric {metric.name}")
        self._metrics[metric.name] = metric
