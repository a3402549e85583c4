"""The numbers that keywords of a JSON schema have, as the grammar library reads them. Pure.

JSON has one kind of number: `"maxLength": 2.0` is two characters, which the library does not take.
"""

from __future__ import annotations

import json
from typing import Any

_COUNTS = frozenset(
    "maxContains maxItems maxLength maxProperties minContains minItems minLength "
    "minProperties".split()
)
_BOUNDS = frozenset("exclusiveMaximum exclusiveMinimum maximum minimum".split())

MOST = 2**31 - 1
"""A count that no answer reaches: larger ones mean the same, and the library cannot take them."""
FARTHEST = 2**63 - 1024
"""The last float below 2**63. Bounds that lie farther out are taken for this one, which allows
fewer values: the library counts no farther."""


def checked_number(key: str, value: Any) -> Any:
    """The value of keyword `key`, an int where it counts.

    Raises ValueError for a value that the keyword cannot have, which makes no schema at all.
    """
    if key in _COUNTS:
        return _count(key, value)
    if key == "multipleOf" and not (_is_number(value) and value > 0):
        raise ValueError(f"`multipleOf` must be a number above 0, not {_shown(value)}")
    if key in _BOUNDS and not isinstance(value, bool):  # draft 4 has true and false there
        return _bound(key, value)
    return value


def _count(key: str, value: Any) -> int:
    if not _is_number(value) or value < 0 or value % 1:
        raise ValueError(
            f"`{key}` must be a whole number that is not negative, not {_shown(value)}"
        )
    return min(int(value), MOST)


def _bound(key: str, value: Any) -> int | float:
    if not _is_number(value):
        raise ValueError(f"`{key}` must be a number, not {_shown(value)}")
    if -FARTHEST <= value <= FARTHEST:
        return value  # type: ignore[no-any-return]
    if (value > 0) == key.endswith("inimum"):
        raise ValueError(f"`{key}` must be less than 2**63 away from 0")
    return FARTHEST if value > 0 else -FARTHEST


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return json.dumps(value)[:50]
