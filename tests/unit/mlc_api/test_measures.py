"""The clock of an answer, by a clock of our own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlc_api.measures import Measured, Measures
from mlc_llm.errors import EngineDied, Overloaded
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import Delta, Finished, PromptToken, Stats, Submit

PAGE = Path(__file__).parents[3] / "docs/openai-compatibility.md"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def totals(histogram) -> tuple[float, float]:
    """Sum and count."""
    samples = {sample.suffix: sample.value for sample in histogram.samples()}
    return samples["_sum"], samples["_count"]


def test_first_token_then_between_tokens_then_the_end() -> None:
    measures, clock = Measures("m"), Clock()
    measured = Measured(measures, "chat", n=1, clock=clock)
    for clock.now, tokens in ((2.0, 1), (3.0, 1), (5.0, 4)):
        measured.news([Delta("r", 0, "a", tokens)])
    clock.now = 6.0
    measured.ended(None, gone=False)
    assert totals(measures.first_token) == (2.0, 1)
    assert totals(measures.inter_token) == (pytest.approx(1.0 + 2.0), 1 + 4)
    assert totals(measures.end_to_end) == (6.0, 1)
    assert measures.answers.get("chat", "ok") == 1
    assert measures.open_answers.get() == 0


def test_the_most_tokens_are_measured_where_a_request_says_them() -> None:
    measures = Measures("m")
    asked = [Submit(f"r{n}", b"", GenerationConfig(max_tokens=n), 0.0) for n in (-1, 20, 7)]
    Measured(measures, "completion", n=3, submits=asked)
    assert totals(measures.params_max_tokens) == (27, 2)


def test_failures_and_disconnects_are_counted_by_their_own_names() -> None:
    measures = Measures("m")
    Measured(measures, "chat", n=1).ended(EngineDied("d"), gone=False)
    Measured(measures, "chat", n=1).ended(None, gone=True)
    Measured(measures, "chat", n=1).ended(ZeroDivisionError(), gone=False)
    for outcome in ("engine_died", "disconnected", "internal_error"):
        assert measures.answers.get("chat", outcome) == 1
    assert totals(measures.end_to_end) == (0.0, 0)
    assert measures.rejections.get() == 0


def test_a_request_that_finds_no_place_is_a_rejection() -> None:
    measures = Measures("m")
    Measured(measures, "chat", n=1).ended(Overloaded("full"), gone=False)
    assert measures.answers.get("chat", "overloaded") == 1
    assert measures.rejections.get() == 1


def test_the_engine_s_numbers_are_taken_over() -> None:
    measures = Measures("m")
    stats = Stats(
        num_running=3, kv_pages_total=8, kv_pages_free=2, kv_pages_cached=2,
        requests_finished={"stop": 5}, cached_tokens_total=32, matched_tokens_total=50,
        step_tokens=[4, 2, *[0] * 11, 1], step_tokens_total=20_018,
    )  # fmt: skip
    measures.take(stats)
    assert measures.running.get() == 3
    assert measures.kv_usage.get() == 0.75
    assert (measures.prefix_hits.get(), measures.prefix_queries.get()) == (32, 50)
    assert measures.cache_config.get("16", "8") == 1
    assert measures.success.get("stop") == 5
    assert totals(measures.step_tokens) == (20_018, 7)


def test_a_prompt_that_is_told_is_no_token_yet() -> None:
    measures, clock = Measures("m"), Clock()
    measured = Measured(measures, "completion", n=1, clock=clock)
    clock.now = 1.0
    measured.news([Delta("r", 0, "", 0, prompt=(PromptToken(1, b"a", None, 0),))])
    clock.now = 3.0
    measured.news([Delta("r", 0, "a", 1)])
    assert totals(measures.first_token) == (3.0, 1)


def test_the_time_of_a_token_is_that_between_tokens() -> None:
    measures = Measures("m")
    end = Finished("r", 5, 4, queue_s=1.0, prefill_s=2.0, decode_s=6.0)
    Measured(measures, "chat", n=1).finished([end])
    Measured(measures, "chat", n=2).finished([end])
    assert totals(measures.output_token) == (2.0, 1)
    assert totals(measures.inference_time) == (16.0, 2)


def test_the_page_lists_exactly_the_names_of_vllm_that_are_served() -> None:
    section = PAGE.read_text().split("## Metrics\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| ")]
    listed = re.findall(r"`([a-z0-9_]+)`", "\n".join(table[1:]))
    served = [m.name.removeprefix("vllm:") for m in Measures("m").registry if "vllm:" in m.name]
    assert sorted(listed) == sorted(served), "update docs/openai-compatibility.md"
