"""MLC LLM's overrides of `compile` are accepted in its spelling, and its mistakes are mistakes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlc_llm.commands.overrides import check_opt, check_overrides
from mlc_llm.errors import BadConfig

Check = Callable[[str], None]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "context_window_size=4096;max_batch_size=80",
        "sliding_window_size=-1;",
        "disaggregation=0",
    ],
)
def test_overrides_in_mlcs_spelling_pass(text: str) -> None:
    check_overrides(text)


@pytest.mark.parametrize(
    "text",
    ["O0", "O1", "O2", "O3", "flashinfer=1;cudagraph=0", "ipc_allreduce_strategy=ONESHOT"],
)
def test_presets_and_switches_pass(text: str) -> None:
    check_opt(text)


@pytest.mark.parametrize(
    ("check", "text", "complaint"),
    [
        (check_overrides, "window=1", "'window' is not known; the known ones are context_window"),
        (check_overrides, "context_window_size", "must be a number of tokens"),
        (check_overrides, "context_window_size=many", "must be a number of tokens"),
        (check_overrides, "context_window_size=0", "must be a number of tokens"),
        (check_overrides, "tensor_parallel_shards=2", "must be 1: one device"),
        (check_overrides, "disaggregation=1", "not in this version"),
        (check_overrides, "max_batch_size=1;max_batch_size=2", "given twice"),
        (check_opt, "O4", "O0, O1, O2, O3 or: 'O4' is not known"),
        (check_opt, "cudagraph=yes", "cudagraph must be 0 or 1"),
    ],
)
def test_mistakes_are_one_line(check: Check, text: str, complaint: str) -> None:
    with pytest.raises(BadConfig) as raised:
        check(text)
    assert complaint in raised.value.message
