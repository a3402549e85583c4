"""Make room for an older choice by sending newer ones back to the queue."""

from __future__ import annotations

from mlc_workers.request import Choice
from mlc_workers.scheduler.state import State
from mlc_workers.scheduler.step import StepBuilder


def make_room(state: State, step: StepBuilder, choice: Choice, upto: int) -> bool:
    """Give `choice` the pages to write positions below `upto`; False: not even preemption helps
    now.

    Only choices newer than `choice` are preempted, newest first, and steps are planned oldest
    first: so nobody who is in the step loses its pages, and the oldest of all, alone with the whole
    pool in the end, always gets its page. A choice that gets none keeps what it has and waits for
    the next step.
    """
    sequence = choice.sequence
    assert sequence is not None
    kv = state.kv
    while kv.pages_needed(sequence, upto) > kv.num_available:
        if state.running[-1] is choice:
            step.is_short = True
            return False
        step.preempted.append(state.preempt())
    kv.extend(sequence, upto, step.copies)
    return True
