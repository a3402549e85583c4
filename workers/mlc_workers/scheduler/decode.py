"""One more token for a choice that has its whole prompt computed."""

from __future__ import annotations

from mlc_workers.request import Choice
from mlc_workers.scheduler.plan import Span
from mlc_workers.scheduler.preempt import make_room
from mlc_workers.scheduler.state import State
from mlc_workers.scheduler.step import StepBuilder


def plan_decode(state: State, step: StepBuilder, choice: Choice) -> None:
    """Add the next token, if the budget has one left and a page can be found."""
    if step.num_decode <= 0:
        return
    sequence = choice.sequence
    assert sequence is not None
    length = sequence.length
    if length >= sequence.writable and not make_room(state, step, choice, length + 1):
        return
    step.add_decode(choice, Span(sequence.row, length, choice.tokens[-1:], True))
