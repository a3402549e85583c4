"""The columns of the table, the pieces they are measured in, and the table itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from roofline import Ceilings, ModelShape
from shapes import Shape

OURS = "ours"


@dataclass(frozen=True)
class Column:
    """One figure of every engine: a rate of a shape."""

    title: str
    shape: Shape
    rate: Literal["prefill", "decode"]

    def ceiling(self, model: ModelShape, ceilings: Ceilings) -> float | None:
        """Tokens per second that the hardware allows here."""
        if self.rate == "prefill":
            return model.prefill_ceiling(self.shape, ceilings)
        return model.decode_ceiling(self.shape, ceilings)


SHORT, LONG = Shape(1, 128, 48), Shape(1, 2048, 32)

COLUMNS = (
    Column("prefill 512", Shape(1, 512, 2), "prefill"),
    Column("prefill 2048", LONG, "prefill"),
    Column("decode @128", SHORT, "decode"),
    Column("decode @2048", LONG, "decode"),
    Column("4 sequences", Shape(4, 128, 32), "decode"),
    Column("8", Shape(8, 128, 32), "decode"),
    Column("16", Shape(16, 128, 32), "decode"),
)

PIECES: dict[str, tuple[Shape, ...]] = {
    "short": (Shape(1, 512, 2), SHORT),
    "long": (LONG,),
    "few": (Shape(4, 128, 32), Shape(8, 128, 32)),
    "many": (Shape(16, 128, 32),),
}
"""What one process measures before the next engine has its turn: some ten seconds each."""


@dataclass(frozen=True)
class Sample:
    """One engine's rates of one piece in one round, beside the ceilings of that moment."""

    engine: str
    shapes: dict[str, dict[str, float]]
    ceilings: Ceilings


Cells = dict[str, list[float | None]]
"""A row for every engine: one value for each column."""


Pick = Callable[[list[float]], float]
"""What stands for several rounds: `statistics.median`, or `max`. The best is the fairer one where a
machine has two speeds and changes between them: every engine has met the higher one."""


def rates(samples: Sequence[Sample], pick: Pick) -> Cells:
    """Tokens per second."""
    return _cells(samples, _rate, pick)


def shares(samples: Sequence[Sample], model: ModelShape) -> Cells:
    """The best rate of each engine as a share of the highest ceiling that was seen."""

    def ceiling(column: Column, sample: Sample) -> float | None:
        return column.ceiling(model, sample.ceilings)

    together = [replace(sample, engine="") for sample in samples]
    highest = _cells(together, ceiling, max)[""]
    return {
        engine: [
            None if rate is None or most is None else rate / most
            for rate, most in zip(row, highest, strict=True)
        ]
        for engine, row in rates(samples, max).items()
    }


def ratios(found: Cells) -> list[float | None]:
    """Ours over the best other engine, column by column."""
    others = [row for engine, row in found.items() if engine != OURS]
    return [
        _ratio(own, [value for row in others if (value := row[index]) is not None])
        for index, own in enumerate(found.get(OURS, [None] * len(COLUMNS)))
    ]


def table(title: str, rows: Mapping[str, Sequence[str]]) -> str:
    """A Markdown table with the columns of this module."""
    lines = [[title, *(column.title for column in COLUMNS)], ["---"] * (len(COLUMNS) + 1)]
    lines += [[name, *cells] for name, cells in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(
    samples: Sequence[Sample], value: Callable[[Column, Sample], float | None], pick: Pick
) -> Cells:
    engines = dict.fromkeys(sample.engine for sample in samples)

    def cell(engine: str, column: Column) -> float | None:
        own = [value(column, sample) for sample in samples if sample.engine == engine]
        found = [one for one in own if one is not None]
        return pick(found) if found else None

    return {engine: [cell(engine, column) for column in COLUMNS] for engine in engines}


def _rate(column: Column, sample: Sample) -> float | None:
    return sample.shapes.get(str(column.shape), {}).get(column.rate)


def _ratio(own: float | None, others: list[float]) -> float | None:
    return own / max(others) if own is not None and others else None
