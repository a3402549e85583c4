"""What one rendering of a template may cost, in steps, time and space.

Every value that a template makes is paid for by its size written out, before it is made where it
may be much larger than what it is made of. Knows values and names of functions, no Jinja.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

MAX_STEPS = 5_000_000
MAX_SECONDS = 5.0
MAX_BUILT_CHARACTERS = 128 << 20
"""Of all values together."""
MAX_INTEGER_BITS = 4096
CONTAINER_COST = 64
"""Characters that an element of a list costs as much as."""
WIDENING = frozenset(
    "ljust rjust center zfill expandtabs indent tojson to_bytes".split()
)  # fmt: skip
"""Functions whose result grows with a number, or a text, that they are given."""
FORMATTING = frozenset({"format", "format_map"})
_WIDE = re.compile(r"%[^a-zA-Z%]*(\*|\d{4})|\{[^{}]*:[^{}]*(\d{4}|\{)")
"""In a format: a field that is very wide, or as wide as a value says."""


class OutOfBudget(Exception):
    """Rendering took too many steps, too long or too much space."""


class Budget:
    """What is left. The clock starts when it is made."""

    def __init__(self, *, max_steps: int = MAX_STEPS, max_seconds: float = MAX_SECONDS) -> None:
        self._steps = max_steps
        self._characters = MAX_BUILT_CHARACTERS
        self._deadline = time.monotonic() + max_seconds

    def tick(self) -> str:
        """Pay for one step; shows as nothing in the output."""
        self._steps -= 1
        if self._steps < 0 or (self._steps & 0xFF == 0 and time.monotonic() > self._deadline):
            raise OutOfBudget
        return ""

    def spend(self, size: int) -> None:
        """Pay for so many characters, and look at the clock."""
        self._characters -= size
        if self._characters < 0 or time.monotonic() > self._deadline:
            raise OutOfBudget


current: ContextVar[Budget] = ContextVar("budget")
"""That of the rendering under way; LookupError where a template is only compiled."""


def pay(value: Any) -> Any:
    """Pay for a value that was made, and return it."""
    current.get().spend(size_of(value))
    return value


def size_of(value: Any) -> int:
    """About the characters of the value written out; stops counting beyond every budget."""
    size, rest = 0, [value]
    while rest and size <= MAX_BUILT_CHARACTERS:
        each = rest.pop()
        if isinstance(each, str | bytes):
            size += len(each)
        elif isinstance(each, dict):
            size += CONTAINER_COST * (1 + len(each))
            rest += each.values()
            rest += each
        elif isinstance(each, list | tuple):
            size += CONTAINER_COST * (1 + len(each))
            rest += each
        else:
            size += 1
    return size


def pay_before(name: str, args: Sequence[Any]) -> None:
    """Pay for what a function of this name makes of these arguments, when it may be a lot."""
    budget = current.get()
    if name in WIDENING:
        most = max((_width(value) for value in args[1:]), default=0)
        budget.spend((1 + size_of(args[0])) * most)
    elif name in FORMATTING:
        pay_format(args[0], args[1:])
    elif name == "join":
        sizes = [len(value) for value in args if isinstance(value, str | bytes | list | tuple)]
        budget.spend(size_of(args))
        budget.spend(max(sizes, default=0) * min(sizes, default=0))
    elif name == "replace" and len(args) >= 3:
        text, old, new = args[:3]
        if isinstance(text, str | bytes) and isinstance(old, type(text)):
            budget.spend(text.count(old) * size_of(new))  # type: ignore[arg-type]
    elif name in ("translate", "maketrans"):
        raise OutOfBudget


def pay_format(form: Any, values: Any) -> None:
    """Pay for a text with values in it."""
    if not isinstance(form, str) or _WIDE.search(form.replace("{{", "").replace("}}", "")):
        raise OutOfBudget
    current.get().spend((form.count("{") + form.count("%")) * size_of(values))


def pay_product(left: Any, right: Any) -> None:
    """Pay for `left * right`, of numbers or of a sequence."""
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > MAX_INTEGER_BITS:
            raise OutOfBudget
    elif not numbers:
        sequence, times = (right, left) if isinstance(left, int) else (left, right)
        if not isinstance(times, int):
            raise OutOfBudget
        current.get().spend(size_of(sequence) * max(times, 0))


def listed(args: Sequence[Any]) -> list[Any]:
    """The arguments, with those that make their elements on the way as lists."""
    return [list(value) if isinstance(value, Iterator) else value for value in args]


def _width(value: Any) -> int:
    return abs(value) if isinstance(value, int) else size_of(value)
