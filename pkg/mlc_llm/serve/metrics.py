"""What `engine.metrics()` returns: the engine's counters by MLC LLM's names."""

from __future__ import annotations

from mlc_llm.protocol.messages import Stats

_GAUGES = {
    "num_running": "Requests that are generating.",
    "num_waiting": "Requests that wait for a place.",
    "kv_pages_total": "Pages of the KV cache.",
    "kv_pages_free": "Pages that hold nothing.",
    "kv_pages_cached": "Pages kept for the beginnings of later prompts.",
}
_COUNTERS = {
    "prompt_tokens_sum": ("prompt_tokens_total", "Prompt tokens of all requests."),
    "completion_tokens_sum": ("generation_tokens_total", "Tokens generated."),
    "prefill_tokens_sum": ("prefill_tokens_total", "Tokens computed by prefill."),
    "decode_tokens_sum": ("generation_tokens_total", "Tokens computed by decode."),
    "num_preemptions": ("num_preemptions", "Requests that gave their pages to older ones."),
    "num_steps": ("num_steps", "Steps of the engine."),
    "step_seconds_sum": ("step_seconds_total", "Seconds in steps."),
}
"""MLC LLM's name, the field of `Stats`, and what it says."""


class EngineMetrics:
    """Numbers of one moment."""

    def __init__(self, stats: Stats) -> None:
        self.metrics: dict[str, float] = {
            **{name: getattr(stats, name) for name in _GAUGES},
            **{name: getattr(stats, field) for name, (field, _) in _COUNTERS.items()},
        }

    def __getitem__(self, name: str) -> float:
        return self.metrics[name]

    def __str__(self) -> str:
        return str(self.metrics)

    def prometheus_text(self) -> str:
        """The same as Prometheus text, format 0.0.4."""
        kinds = [(name, name, "gauge", text) for name, text in _GAUGES.items()]
        kinds += [(name, f"{name}_total", "counter", text) for name, (_, text) in _COUNTERS.items()]
        return "".join(
            f"# HELP mlc_llm:{shown} {text}\n# TYPE mlc_llm:{shown} {kind}\n"
            f"mlc_llm:{shown} {self.metrics[name]}\n"
            for name, shown, kind, text in kinds
        )
