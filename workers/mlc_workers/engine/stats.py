"""The engine's counters."""

from __future__ import annotations

from mlc_llm.metrics.registry import STEP_TOKENS, Histogram
from mlc_llm.protocol.messages import FinishReason, Stats
from mlc_workers.scheduler.state import State

REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.ABORT: "abort",
    FinishReason.ERROR: "error",
}


class Counters:
    """What has happened since the start; see `Stats` for what each one counts."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.matched_tokens = 0
        self.generation_tokens = 0
        self.prefill_tokens = 0
        self.finished = dict.fromkeys(REASONS.values(), 0)
        self.num_steps = 0
        self.step_seconds = 0.0
        self.plan_settle_seconds = 0.0
        self.step_tokens = Histogram("step_tokens", "Tokens a step.", STEP_TOKENS)

    def stats(self, state: State, num_held: int = 0) -> Stats:
        """Counters, and gauges of the scheduler as it is now; held requests wait as well."""
        kv = state.kv
        step_tokens, step_tokens_total = self.step_tokens.counted()
        return Stats(
            num_running=len(state.running),
            num_waiting=len(state.waiting) + num_held,
            kv_pages_total=kv.pool.num_pages,
            kv_pages_free=kv.num_available,
            kv_pages_cached=kv.prefix.num_known,
            prompt_tokens_total=self.prompt_tokens,
            cached_tokens_total=self.cached_tokens,
            matched_tokens_total=self.matched_tokens,
            generation_tokens_total=self.generation_tokens,
            prefill_tokens_total=self.prefill_tokens,
            requests_finished=dict(self.finished),
            num_preemptions=state.num_preemptions,
            num_steps=self.num_steps,
            step_seconds_total=self.step_seconds,
            plan_settle_seconds_total=self.plan_settle_seconds,
            step_tokens=step_tokens,
            step_tokens_total=int(step_tokens_total),
        )
