"""One step from plan to answers: the only place where scheduler, device and sampler meet.

What goes wrong with one choice ends its request; what goes wrong with a run ends the requests in
it. Knows no client and no channel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlc_llm.errors import EngineFault
from mlc_llm.tracing.events import ENGINE, Event
from mlc_llm.tracing.recorder import Recorder
from mlc_workers.engine.desk import Desk
from mlc_workers.engine.pooling import pool_prompts
from mlc_workers.engine.reading import end_read_prompts, tell_prompts
from mlc_workers.engine.sampler import Sampler
from mlc_workers.engine.stats import Counters
from mlc_workers.guided.masks import MaskFiller, Masks
from mlc_workers.request import Choice, GrammarTooComplex
from mlc_workers.sampling.mask import Mask
from mlc_workers.sampling.sampler import Pick
from mlc_workers.scheduler.plan import Plan
from mlc_workers.scheduler.scheduler import Scheduler
from mlc_workers.scheduler.step import Step


class Runner(Protocol):
    """Computes plans on the device."""

    def run(self, plan: Plan) -> NDArray[np.float32]:
        """Logits float32[b, vocab], the rows of `Plan`; vocab may be padded."""
        ...

    def hidden(self) -> NDArray[np.float64]:
        """Hidden states float64[e, hidden_size] that the last plan wanted."""
        ...


class Stepper:
    """Runs steps and settles them. `vocab_size`: columns of logits that may be sampled."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        sampler: Sampler,
        desk: Desk,
        vocab_size: int,
        counters: Counters,
        recorder: Recorder | None,
        clock: Callable[[], float],
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._sampler = sampler
        self._desk = desk
        self._vocab_size = vocab_size
        self._counters = counters
        self._recorder = recorder
        self._clock = clock
        self._masks = MaskFiller(vocab_size)
        self.num_faults = 0
        """Runs that have failed one after the other."""

    def step(self) -> bool:
        """Plan, run, sample, settle, answer. False: there was no work."""
        began = self._clock()
        step = self._scheduler.plan()
        if step is None:
            return False
        planned = self._clock()
        self._note_start(step, planned)
        filling = self._masks.begin(step.sampled)
        try:
            logits = self._runner.run(step.plan)
        except Exception as error:
            if filling is not None:
                filling.exception()  # the guides are not ours before it is done
            self.num_faults += 1
            for choice in step.choices:
                self._desk.fail(choice.request, EngineFault(f"the device failed: {error}"))
            return True
        self.num_faults = 0
        ran = self._clock()
        tell_prompts(self._desk, step, logits[:, : self._vocab_size])
        if step.pooled:
            pool_prompts(self._desk, step, self._runner.hidden())
        masks: Masks = [None] * len(step.sampled) if filling is None else filling.result()
        picks = self._sample(step, logits, masks)
        sampled = self._clock()
        self._scheduler.settle(step, [pick.token_id for pick in picks])
        settled = self._clock()
        self._note_tokens(step, settled)
        for choice, pick in zip(step.sampled, picks, strict=True):
            self._desk.answer(choice, pick)
        end_read_prompts(self._desk, step)
        took = self._clock() - began
        self._scheduler.learn(step, took)
        self._count(step, planned - began + settled - sampled, took)
        if self._recorder is not None:
            self._trace(step, (began, planned, ran, sampled, settled, self._clock()))
        return True

    def _sample(self, step: Step, logits: NDArray[np.float32], outcomes: Masks) -> list[Pick]:
        """A pick for each of `step.sampled`; requests that cannot be sampled fail, alone."""
        if not step.sampled:
            return []
        logits = logits[:, : self._vocab_size]
        if step.rows is not None:
            logits = logits[step.rows]
        masks = [None if isinstance(mask, Exception) else mask for mask in outcomes]
        picks: Sequence[Pick | Exception]
        try:
            picks = self._sampler.sample(logits, [choice.sampler for choice in step.sampled], masks)
        except Exception:
            picks = [
                self._sample_alone(choice, row, mask)
                for choice, row, mask in zip(step.sampled, logits, masks, strict=True)
            ]
        return [
            self._checked(choice, outcome if isinstance(outcome, Exception) else pick)
            for choice, pick, outcome in zip(step.sampled, picks, outcomes, strict=True)
        ]

    def _sample_alone(
        self, choice: Choice, row: NDArray[np.float32], mask: Mask | None
    ) -> Pick | Exception:
        """Find out who spoiled the batch."""
        try:
            return self._sampler.sample(row[None], [choice.sampler], [mask])[0]
        except Exception as error:
            return error

    def _checked(self, choice: Choice, pick: Pick | Exception) -> Pick:
        """The pick; or, once its request has failed, one that nobody will see."""
        if not isinstance(pick, Exception):
            return pick
        if isinstance(pick, GrammarTooComplex):
            self._desk.fail_grammar(choice.request, pick)
        else:
            self._desk.fail(choice.request, EngineFault(f"no token could be sampled: {pick}"))
        return Pick(0)

    def _note_start(self, step: Step, now: float) -> None:
        for choice in step.started:
            times = choice.request.timing
            if not times.first_step:
                times.first_step = now
                self._counters.cached_tokens += choice.request.num_cached_tokens
                self._counters.matched_tokens += choice.request.num_prompt_tokens

    def _note_tokens(self, step: Step, now: float) -> None:
        for choice in step.sampled:
            times = choice.request.timing
            times.first_token = times.first_token or now
            times.last_token = now

    def _count(self, step: Step, plan_settle: float, total: float) -> None:
        counters = self._counters
        counters.num_steps += 1
        counters.plan_settle_seconds += plan_settle
        counters.step_seconds += total
        counters.generation_tokens += len(step.sampled)
        counters.prefill_tokens += step.num_prefill_tokens
        counters.step_tokens.observe(step.plan.num_tokens)

    def _trace(self, step: Step, times: tuple[float, ...]) -> None:
        """One set of spans for the batch, and one for each request in it."""
        recorder = self._recorder
        assert recorder is not None
        offset = time.time() - times[-1]
        began, planned, ran, sampled, settled, ended = (moment + offset for moment in times)
        for event, start, end in (
            (Event.PLAN, began, planned),
            (Event.RUN, planned, ran),
            (Event.SAMPLING, ran, sampled),
            (Event.SETTLE, sampled, settled),
            (Event.DETOKENIZATION, settled, ended),
        ):
            recorder.span(event, (ENGINE,), start, end)
        for choice in step.preempted:
            recorder.instant(Event.PREEMPT, choice.request.key.request_id, planned)
        recorder.span(Event.DECODE, _names(step.decoding), planned, ran)
        recorder.span(Event.PREFILL, _names(step.prefilling), planned, ran)
        answered = _names(step.sampled)
        recorder.span(Event.SAMPLING, answered, ran, sampled)
        recorder.span(Event.DETOKENIZATION, answered, settled, ended)


def _names(choices: list[Choice]) -> dict[str, None]:
    """The requests that these are choices of, each once."""
    return dict.fromkeys([choice.request.key.request_id for choice in choices])
