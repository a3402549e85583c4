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
    num_prefill_tokens: int
    """Tokens of prompts, recomputed ones included."""
    is_prefill: list[bool]
    """Whether `choices[i]` computes a chunk of a prompt."""
    reads: list[tuple[int, int]]
    """(i, logits row of its first token that is read) of every `choices[i]` whose span reads."""
    pooled: list[tuple[int, int]]
    """(i, first row among the hidden states) of every `choices[i]` whose span is pooled."""

    @property
    def prefilling(self) -> list[Choice]:
        """Who computes a chunk of a prompt."""
        return [c for c, prefill in zip(self.choices, self.is_prefill, strict=True) if prefill]

    @property
    def decoding(self) -> list[Choice]:
        """Who computes its latest tokens."""
        return [c for c, prefill in zip(self.choices, self.is_prefill, strict=True) if not prefill]


class StepBuilder:
    """Collects one step within its budgets of tokens."""

    def __init__(self) -> None:
        self.num_decode = 0
        """Tokens that decoding may still take."""
        self.num_prefill = 0
        """Tokens that prefill may still take."""
        self.num_read = 0
        """Results of single tokens of prompts that may still be read."""
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
        self.reads: list[tuple[int, int]] = []
        self.pooled: list[tuple[int, int]] = []
        self._num_rows = 0
        self._num_hidden = 0
        self._rows: list[int] | None = None
        self._num_prefill_tokens = 0
        self._is_prefill: list[bool] = []

    def add_decode(self, choice: Choice, span: Span) -> None:
        """A token for a choice that decodes, and some that are known to follow it."""
        self.num_decode -= 1
        self.num_prefill -= len(span.tokens) - 1
        self.spans.append(span)
        self.choices.append(choice)
        self._is_prefill.append(False)
        if span.sample:
            self._sample(choice)

    def add_prefill(self, choice: Choice, span: Span) -> None:
        """A chunk of a prompt; the last one samples once for every choice that begins here."""
        self.num_prefill -= len(span.tokens)
        self._num_prefill_tokens += len(span.tokens)
        self.spans.append(span)
        self.choices.append(choice)
        self._is_prefill.append(True)
        if span.num_read:
            self._read(span)
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
            self._num_prefill_tokens,
            self._is_prefill,
            self.reads,
            self.pooled,
        )

    def _read(self, span: Span) -> None:
        """The rows of the span that is being added, before the one it samples."""
        if span.pooled:
            self.pooled.append((len(self.spans) - 1, self._num_hidden))
            self._num_hidden += span.num_read
            return
        if self._rows is None:
            self._rows = list(range(len(self.sampled)))
        self.reads.append((len(self.spans) - 1, self._num_rows))
        self.num_read -= span.num_read
        self._num_rows += span.num_read

    def _sample(self, choice: Choice) -> None:
        self.sampled.append(choice)
        if self._rows is not None:
            self._rows.append(self._num_rows)
        self._num_rows += 1
