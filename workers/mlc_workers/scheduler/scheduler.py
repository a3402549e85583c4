"""Turns waiting and running requests into the next step, and its results into their next phase.

Knows pages, rows, budgets and order. Knows nothing of tensors, text, clients or clocks: the same
calls give the same plans.
"""

from __future__ import annotations

from collections.abc import Iterable

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_llm.errors import MLCError, Overloaded
from mlc_workers.cache.kv import KVCache
from mlc_workers.request import Choice, Phase, Request
from mlc_workers.scheduler.decode import plan_decode
from mlc_workers.scheduler.limits import Limits, length_limit, refusal
from mlc_workers.scheduler.pace import Pace, whole_tiles
from mlc_workers.scheduler.prefill import Admission, plan_chunk
from mlc_workers.scheduler.state import State
from mlc_workers.scheduler.step import Step, StepBuilder


class Scheduler:
    """`submit` and `drop` at any time; else `plan`, run, `settle`, `finish`, over and over."""

    def __init__(self, limits: Limits, kv: KVCache, pace: Pace | None = None) -> None:
        """Without `pace`, prompts may take all of a step that decoding leaves."""
        self.limits = limits
        self.pace = pace
        self.state = State(limits, kv)
        self._admission = Admission(self.state)

    @property
    def has_work(self) -> bool:
        return bool(self.state.running or self.state.waiting)

    def refusal(self, request: Request) -> MLCError | None:
        """Why the request cannot be queued now, or None. For a free row nobody waits."""
        error = refusal(request, self.limits)
        if error is not None:
            return error
        state = self.state
        if len(state.waiting) >= self.limits.max_waiting + state.kv.table.num_free:
            return Overloaded("too many requests are waiting; try again later")
        if not self._has_room_for(request.num_prompt_tokens):
            return Overloaded("too many tokens are waiting; try again later")
        return None

    def submit(self, request: Request) -> MLCError | None:
        """Queue a request, or say why it is refused."""
        error = self.refusal(request)
        if error is not None:
            return error
        for choice in request.choices:
            choice.limit = length_limit(choice, self.limits)
        self.state.waiting.append(request.choices[0])
        return None

    def plan(self) -> Step | None:
        """The next step; None exactly when there is no work.

        Oldest first. In hybrid mode decoding and prefill share the step: decoding takes its tokens
        first, but the oldest of all always gets at least one; prompts take what is left, or as much
        as `pace` says while others decode. In chunked mode decoding pauses while there are prompts
        to compute.
        """
        if not self.has_work:
            return None
        step = StepBuilder()
        step.num_read = self.limits.max_read_rows
        budget = self.limits.prefill_chunk_size
        if self.limits.prefill_mode == "chunked":
            self._collect(step, 0, budget)
            if not step.spans:
                self._collect(step, budget, 0)
        else:
            running = self.state.running
            oldest = int(bool(running) and running[0].phase is Phase.PREFILL)
            num_decode = min(self.state.num_decoding, budget - oldest)
            self._collect(step, num_decode, self._prompt_budget(budget - num_decode))
        if not step.spans:
            raise AssertionError("there is work, but nothing was planned")
        return step.build()

    def learn(self, step: Step, seconds: float) -> None:
        """The step, from its plan to the answers, took so long."""
        if self.pace is not None:
            num_streams = len(step.choices) - sum(step.is_prefill)
            self.pace.learn(num_streams, step.plan.num_tokens - num_streams, seconds)

    def settle(self, step: Step, tokens: Iterable[int]) -> None:
        """The step was run: `tokens[i]` was sampled for `step.sampled[i]`.

        Choices that left meanwhile are passed over; what was sampled for them is ignored.
        """
        kv = self.state.kv
        for choice, span in zip(step.choices, step.plan.spans, strict=True):
            sequence = choice.sequence
            if sequence is not None:
                length = sequence.length = span.start + len(span.tokens)
                if length - sequence.num_registered * PAGE_SIZE >= PAGE_SIZE:
                    kv.commit(sequence, choice.tokens)
                if span.num_read:
                    choice.request.num_read = span.start + span.first_read + span.num_read
        forks: list[Choice] = []
        for choice, token in zip(step.sampled, tokens, strict=True):
            if choice.phase is Phase.DECODE or self._begin(choice, forks):
                choice.tokens.append(token)
        self.state.waiting.extendleft(reversed(forks))

    def finish(self, choice: Choice) -> None:
        """The choice has ended; its pages and row are free."""
        self.state.finish(choice)

    def drop(self, request: Request) -> None:
        """End every choice of the request, in whichever phase."""
        for choice in request.choices:
            self.state.finish(choice)

    def audit(self) -> None:
        """Prove that no page leaked and all books agree."""
        self.state.audit()

    def _has_room_for(self, num_tokens: int) -> bool:
        """Whether a prompt of so many tokens may wait with the others."""
        waiting, limits = self.state.waiting, self.limits
        if (len(waiting) + 1) * limits.max_length <= limits.max_waiting_tokens:
            return True  # however long they are: it is not worth counting
        num_waiting = sum(len(choice.tokens) for choice in waiting)
        return not waiting or num_waiting + num_tokens <= limits.max_waiting_tokens

    def _prompt_budget(self, num_left: int) -> int:
        """Tokens of prompts for a step that has `num_left` to give."""
        state = self.state
        if self.pace is None or not state.num_decoding:
            return num_left
        num_here = min(len(state.running) + len(state.waiting), self.limits.max_num_sequence)
        num_tokens = self.pace.prompt_tokens(state.num_decoding, num_here)
        return min(num_left, whole_tiles(state.num_decoding, num_tokens))

    def _collect(self, step: StepBuilder, num_decode: int, num_prefill: int) -> None:
        """One pass over who runs, oldest first, then the queue; preemption cuts the list's end."""
        step.num_decode = num_decode
        step.num_prefill = num_prefill
        state = self.state
        running = state.running
        i = 0
        while i < len(running):
            choice = running[i]
            if choice.phase is Phase.DECODE:
                plan_decode(state, step, choice)
            else:
                plan_chunk(state, step, choice)
            i += 1
        self._admission.admit(step)

    def _begin(self, choice: Choice, forks: list[Choice]) -> bool:
        """The first token after a computed prompt; False: the choice is gone."""
        if choice.phase is Phase.PREFILL:
            self.state.begin_decode(choice)
            return True
        if choice.phase is Phase.FINISHED:
            return False
        request = choice.request
        prompt = request.choices[0].tokens[: request.num_prompt_tokens]
        if not self.state.fork(choice, prompt):
            forks.append(choice)
        return True
