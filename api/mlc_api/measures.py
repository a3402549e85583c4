"""What the web process measures, and the engine's counters beside it, under the names of vLLM.

Dashboards exist for those names. What they have no word for is called `mlc_llm:...`. The registry
is bounded: labels take few values, all of them ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

from mlc_llm.errors import MLCError, Overloaded
from mlc_llm.metrics.registry import (
    REQUEST_SECONDS,
    SECONDS,
    STEP_TOKENS,
    TOKEN_SECONDS,
    TOKENS,
    Registry,
)
from mlc_llm.protocol.messages import Delta, Finished, Stats, Submit

PAGE_SIZE = 16
"""Tokens of a page of the KV cache (see `mlc_llm.compiler.abi`)."""

CACHE_LABELS = ("block_size", "num_gpu_blocks")
"""vLLM's names, whatever the device."""


class Measures:
    """All metrics of this server."""

    def __init__(self, model: str) -> None:
        self.registry = Registry({"model_name": model, "engine": "0"})
        self._engine_metrics()
        self._latency_metrics()
        self._web_metrics()

    def _engine_metrics(self) -> None:
        gauge, counter = self.registry.gauge, self.registry.counter
        self.running = gauge("vllm:num_requests_running", "Requests in the running batch.")
        self.waiting = gauge("vllm:num_requests_waiting", "Requests waiting for a place.")
        self.waiting_why = gauge(
            "vllm:num_requests_waiting_by_reason", "Requests waiting, by what for.", ["reason"]
        )
        self.cache_config = gauge(
            "vllm:cache_config_info", "1; the labels say how the KV cache is cut.", CACHE_LABELS
        )
        self.kv_usage = gauge("vllm:kv_cache_usage_perc", "KV pages in use; 1 means all of them.")
        self.preemptions = counter("vllm:num_preemptions_total", "Requests sent back to wait.")
        self.prompt = counter("vllm:prompt_tokens_total", "Prompt tokens of admitted requests.")
        self.cached = counter(
            "vllm:prompt_tokens_cached_total", "Prompt tokens found in the prefix cache."
        )
        self.prefix_queries = counter(
            "vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache."
        )
        self.prefix_hits = counter(
            "vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache."
        )
        self.generated = counter("vllm:generation_tokens_total", "Tokens generated.")
        self.success = counter(
            "vllm:request_success_total", "Requests by how they ended.", ["finished_reason"]
        )
        self.step_tokens = self.registry.histogram(
            "vllm:iteration_tokens_total", "Tokens computed in a step.", STEP_TOKENS
        )
        self.pages = gauge("mlc_llm:kv_pages", "KV pages by state.", ["state"])
        self.prefilled = counter(
            "mlc_llm:prefill_tokens_total", "Tokens computed by prefill, recomputed ones included."
        )
        self.steps = counter("mlc_llm:engine_steps_total", "Steps of the engine.")
        self.step_seconds = counter("mlc_llm:engine_step_seconds_total", "Time spent in steps.")
        self.host_seconds = counter(
            "mlc_llm:engine_plan_settle_seconds_total", "Time spent in planning and settling."
        )

    def _latency_metrics(self) -> None:
        new = self.registry.histogram
        self.first_token = new(
            "vllm:time_to_first_token_seconds", "From arrival to the first token.", SECONDS
        )
        self.inter_token = new(
            "vllm:inter_token_latency_seconds", "From one token to the next.", TOKEN_SECONDS
        )
        self.end_to_end = new(
            "vllm:e2e_request_latency_seconds", "From arrival to the last token.", REQUEST_SECONDS
        )
        self.queue_time = new(
            "vllm:request_queue_time_seconds", "Time waiting in the engine.", REQUEST_SECONDS
        )
        self.prefill_time = new(
            "vllm:request_prefill_time_seconds", "Time in prefill.", REQUEST_SECONDS
        )
        self.decode_time = new(
            "vllm:request_decode_time_seconds", "Time in decode.", REQUEST_SECONDS
        )
        self.inference_time = new(
            "vllm:request_inference_time_seconds", "Time in prefill and decode.", REQUEST_SECONDS
        )
        self.output_token = new(
            "vllm:request_time_per_output_token_seconds",
            "Time between the tokens of a request, on average.",
            TOKEN_SECONDS,
        )
        self.request_prompt = new("vllm:request_prompt_tokens", "Prompt tokens a request.", TOKENS)
        self.request_generated = new(
            "vllm:request_generation_tokens", "Tokens generated a request.", TOKENS
        )
        self.params_n = new(
            "vllm:request_params_n", "Choices a request asks for.", (1, 2, 5, 10, 20)
        )
        self.params_max_tokens = new(
            "vllm:request_params_max_tokens", "Most tokens a request asks for, if it says.", TOKENS
        )

    def _web_metrics(self) -> None:
        gauge, counter = self.registry.gauge, self.registry.counter
        self.answers = counter(
            "mlc_llm:answers_total",
            "Answers by endpoint and outcome (ok, disconnected, or the error's code).",
            ["endpoint", "outcome"],
        )
        self.rejections = counter(
            "vllm:admission_rejections_total", "Requests refused because too many are waiting."
        )
        self.open_answers = gauge("mlc_llm:open_answers", "Answers being given now.")
        self.engine_up = gauge("mlc_llm:engine_up", "1 while the engine takes requests.")

    def take(self, stats: Stats) -> None:
        """Puts the engine's own numbers in place."""
        self.running.set(to=stats.num_running)
        self.waiting.set(to=stats.num_waiting)
        self.waiting_why.set("capacity", to=stats.num_waiting)
        self.cache_config.set(str(PAGE_SIZE), str(stats.kv_pages_total), to=1)
        used = stats.kv_pages_total - stats.kv_pages_free
        self.kv_usage.set(to=used / stats.kv_pages_total if stats.kv_pages_total else 0.0)
        self.pages.set("free", to=stats.kv_pages_free)
        self.pages.set("cached", to=stats.kv_pages_cached)
        self.pages.set("used", to=used)
        self.preemptions.set(to=stats.num_preemptions)
        self.prompt.set(to=stats.prompt_tokens_total)
        self.cached.set(to=stats.cached_tokens_total)
        self.prefix_queries.set(to=stats.matched_tokens_total)
        self.prefix_hits.set(to=stats.cached_tokens_total)
        self.generated.set(to=stats.generation_tokens_total)
        self.prefilled.set(to=stats.prefill_tokens_total)
        self.steps.set(to=stats.num_steps)
        self.step_seconds.set(to=stats.step_seconds_total)
        self.host_seconds.set(to=stats.plan_settle_seconds_total)
        if stats.step_tokens:
            self.step_tokens.set(stats.step_tokens, stats.step_tokens_total)
        for reason, count in stats.requests_finished.items():
            self.success.set(reason, to=count)


class Measured:
    """The clock of one answer."""

    def __init__(
        self,
        measures: Measures,
        endpoint: str,
        *,
        n: int,
        submits: Sequence[Submit] = (),
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`submits`: what the engine is asked to generate."""
        self._measures = measures
        self._endpoint = endpoint
        self._clock = clock
        self._n = n
        self._began = clock()
        self._last: float | None = None
        measures.params_n.observe(n)
        for submit in submits:
            if submit.generation.max_tokens >= 0:
                measures.params_max_tokens.observe(submit.generation.max_tokens)
        measures.open_answers.inc()

    def news(self, deltas: Sequence[Delta]) -> None:
        """Tokens have come."""
        if not deltas or deltas[0].prompt:
            return
        now = self._clock()
        if self._last is None:
            self._measures.first_token.observe(now - self._began)
        else:
            # News of several steps may come as one; the time is shared between them.
            steps = max(1, max(delta.num_tokens for delta in deltas))
            self._measures.inter_token.observe((now - self._last) / steps, steps)
        self._last = now

    def finished(self, ends: Sequence[Finished]) -> None:
        """Engine requests have ended."""
        measures = self._measures
        for end in ends:
            measures.queue_time.observe(end.queue_s)
            measures.prefill_time.observe(end.prefill_s)
            measures.decode_time.observe(end.decode_s)
            measures.inference_time.observe(end.prefill_s + end.decode_s)
            if end.completion_tokens > 1 and self._n == 1:
                measures.output_token.observe(end.decode_s / (end.completion_tokens - 1))
            measures.request_prompt.observe(end.prompt_tokens)
            measures.request_generated.observe(end.completion_tokens)

    def ended(self, outcome: BaseException | None, *, gone: bool) -> None:
        """The answer is over: given, failed, or nobody waits for it."""
        if gone:
            word = "disconnected"
        elif outcome is None:
            word = "ok"
            self._measures.end_to_end.observe(self._clock() - self._began)
        elif isinstance(outcome, MLCError):
            word = outcome.code or outcome.type
            self._measures.rejections.inc(by=isinstance(outcome, Overloaded))
        else:
            word = "internal_error"
        self._measures.answers.inc(self._endpoint, word)
        self._measures.open_answers.inc(by=-1)
