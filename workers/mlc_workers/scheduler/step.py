"""A plan together with whom it is for: what is needed to carry the results home."""

from __future__ import annotations

from msgspec import Struct

from mlc_workers.cache.kv import Copies
from mlc_workers.request import Choice
from mlc_workers.scheduler.plan import Plan, Span


class Step(Struct, frozen=True):
    """`choices[i]` is computed by `plan.spans[i]`."""

    plan: Plan
    choices: list[Choice]
    sampled: list[Choice]
    """Who gets a token, in the order of the logits rows."""
    rows: list[int] | None
    """The logits row of each of `sampled`; None: one row each. Forks share the row of their prompt.
    """
    started: list[Choice]
    """Who left the queue while this step was planned."""
    preempted: list[Choice]
    """Who lost its KV while this step was planned."""


class StepBuilder:
    """Collects one step within its budgets of tokens."""

    def __init__(self) -> None:
        self.num_decode = 0
        """Tokens that decoding may still take."""
        self.num_prefill = 0
        """Tokens that prefill may still take."""
        self.num_promised_pages = 0
        """Pages that prompts in progress will still need."""
        self.is_short = False
        """Whether a choice found no page for its next token."""
        self.copies: Copies = []
        self.spans: list[Span] = []
        self.choices: list[Choice] = []
        self.sampled: list[Choice] = []
        self.started: list[Choice] = []
        self.preempted: list[Choice] = []
        self._rows: list[int] | None = None

    def add_decode(self, choice: Choice, span: Span) -> None:
        """One token for a choice that decodes."""
        self.num_decode -= 1
        self.spans.append(span)
        self.choices.append(choice)
        self._sample(choice)

    def add_prefill(self, choice: Choice, span: Span) -> None:
        """A chunk of a prompt; the last one samples once for every choice that begins here."""
        self.num_prefill -= len(span.tokens)
        self.spans.append(span)
        self.choices.append(choice)
        if not span.sample:
            return
        request = choice.request
        self._sample(choice)
        if request.is_forked or len(request.choices) == 1:
            return
        rows = self._rows if self._rows is not None else list(range(len(self.sampled)))
        rows += [rows[-1]] * (len(request.choices) - 1)
        self.sampled += request.choices[1:]
        self._rows = rows

    def build(self) -> Step:
        return Step(
            Plan(tuple(self.spans), tuple(self.copies)),
            self.choices,
            self.sampled,
            self._rows,
            self.started,
            self.preempted,
        )

    def _sample(self, choice: Choice) -> None:
        self.sampled.append(choice)
        if self._rows is not None:
            self._rows.append(self._rows[-1] + 1)
