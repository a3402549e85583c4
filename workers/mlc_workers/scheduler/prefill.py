"""Prompts: the next chunk of one in progress, and who may begin."""

from __future__ import annotations

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_workers.cache.pages import pages_for
from mlc_workers.request import Choice
from mlc_workers.scheduler.plan import Span
from mlc_workers.scheduler.preempt import make_room
from mlc_workers.scheduler.state import State
from mlc_workers.scheduler.step import StepBuilder


def plan_chunk(state: State, step: StepBuilder, choice: Choice) -> None:
    """Add as much of the prompt as the budget and the free pages allow."""
    sequence = choice.sequence
    assert sequence is not None
    start = sequence.length
    request = choice.request
    last = request.read_until if request.generation.max_tokens == 0 else len(choice.tokens)
    size = min(last - start, step.num_prefill)
    unread = max(start, request.num_read)
    pooled = request.generation.pooling is not None
    if unread < request.read_until and not pooled:
        size = min(size, unread - start + step.num_read)
    if size > 0:
        room = (len(sequence.pages) + state.kv.num_available) * PAGE_SIZE - start
        size = max(1, min(size, room))
        if make_room(state, step, choice, start + size):
            end = start + size
            sample = end == len(choice.tokens) and request.generation.max_tokens != 0
            read = max(0, min(end, request.read_until) - unread)
            span = Span(
                sequence.row,
                start,
                choice.tokens[start:end],
                sample,
                unread - start,
                read,
                pooled,
            )
            step.add_prefill(choice, span)
    step.num_promised_pages += pages_for(len(choice.tokens) + 1) - len(sequence.pages)


class Admission:
    """Lets the queue in, strictly in order: a head that does not fit is waited for, not passed."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._blocked: tuple[Choice, int] | None = None
        """A head that did not fit, and the count of releases then: no use in asking again before.
        """

    def admit(self, step: StepBuilder) -> None:
        """Start waiting choices and plan their first chunks while budget, rows and pages last."""
        waiting = self._state.waiting
        while waiting and step.num_prefill > 0 and not step.is_short and not step.preempted:
            choice = waiting[0]
            if self._blocked == (choice, self._state.kv.num_releases):
                return
            if self._state.limits.whole_prompts and len(choice.tokens) > step.num_prefill:
                return
            if not self._start(choice, step):
                self._blocked = (choice, self._state.kv.num_releases)
                return
            plan_chunk(self._state, step, choice)

    def _start(self, choice: Choice, step: StepBuilder) -> bool:
        """Whether `choice` fits now; if so it runs.

        It must find pages for its whole prompt and a token more, beside what other prompts in
        progress still need and one page for each that runs: else it would soon be preempted again.
        Alone it always fits, because what can never fit was refused when it came.
        """
        state = self._state
        kv = state.kv
        num_rows = _rows_of(choice, state)
        if kv.table.num_free - state.num_reserved_rows < num_rows:
            return False
        matched = kv.match(choice.tokens)
        request = choice.request
        if request.num_read < request.read_until:
            del matched[request.num_read // PAGE_SIZE :]  # a page that is found is not computed
        needed = pages_for(len(choice.tokens) + 1) - len(matched)
        reserve = step.num_promised_pages + len(state.running)
        if needed + reserve > kv.num_available - kv.prefix.num_idle_of(matched):
            return False
        state.start(choice, matched, num_rows)
        step.started.append(choice)
        if not choice.request.is_started:
            choice.request.is_started = True
            choice.request.num_cached_tokens = len(matched) * PAGE_SIZE
        return True


def _rows_of(choice: Choice, state: State) -> int:
    """Rows to keep for a choice and for the forks that will begin at the end of its prompt."""
    if choice.request.is_forked:
        return 1
    return min(len(choice.request.choices), state.limits.max_num_sequence)
