"""The next tokens of a choice that has its whole prompt computed: one, or more where a grammar left
none to choose.
"""

from __future__ import annotations

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_workers.request import Choice
from mlc_workers.scheduler.plan import Span
from mlc_workers.scheduler.preempt import make_room
from mlc_workers.scheduler.state import State
from mlc_workers.scheduler.step import StepBuilder


def plan_decode(state: State, step: StepBuilder, choice: Choice) -> None:
    """Add the next token, if the budget has one left and a page can be found.

    Tokens that follow it already are computed like a prompt's, in what is left of prefill's budget.
    """
    if step.num_decode <= 0:
        return
    sequence = choice.sequence
    assert sequence is not None
    length = sequence.length
    end = len(choice.tokens)
    if end > length + 1:
        end = length + max(1, min(end - length, 1 + step.num_prefill, _room(state, choice)))
    if end > sequence.writable and not make_room(state, step, choice, end):
        return
    sample = end == len(choice.tokens)
    step.add_decode(choice, Span(sequence.row, length, choice.tokens[length:end], sample))


def _room(state: State, choice: Choice) -> int:
    """Tokens that fit without preemption."""
    sequence = choice.sequence
    assert sequence is not None
    more = state.kv.num_available - state.kv.pages_needed(sequence, sequence.length)
    return (len(sequence.pages) + more) * PAGE_SIZE - sequence.length
