"""How a format writes calls, as texts around the names and the arguments.

What the grammar enforces, what plain prompts teach and what tests read back are all this.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from msgspec import Struct


class CallShape(Struct, frozen=True):
    """first, then calls with `between` between, then last. A call is before, name, middle,
    the JSON object of its arguments, after."""

    before: str
    middle: str
    after: str = ""
    first: str = ""
    between: str = "\n"
    last: str = ""
    after_token: str = ""
    """What models may write after a marker that is one token: SentencePiece has a blank there."""

    def opening(self) -> str:
        """The text at which a reader knows that calls begin; "" when the name comes first."""
        return self.first + self.before


def write_calls(shape: CallShape, calls: Sequence[tuple[str, str]]) -> str:
    """Calls as (name, arguments as JSON), as the model would write them."""
    written = [shape.before + name + shape.middle + given + shape.after for name, given in calls]
    return shape.first + shape.between.join(written) + shape.last


def json_arguments(arguments: object) -> str:
    """The arguments of a call of the history as JSON text, whichever way the client sent them."""
    if isinstance(arguments, str):
        return arguments
    return json.dumps({} if arguments is None else arguments, ensure_ascii=False)
