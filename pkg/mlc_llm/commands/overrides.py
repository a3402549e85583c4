"""`mlc_llm compile --overrides` and `--opt` in MLC LLM's spelling: checked, then without effect.

The sizes that MLC LLM compiles in are arguments of our compiled function, and its optimizations
are GPU libraries. A mistake is still a mistake, and what would need several devices is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mlc_llm.errors import BadConfig

PRESETS = ("O0", "O1", "O2", "O3")
SWITCHES = ("flashinfer", "cublas_gemm", "faster_transformer", "cudagraph", "cutlass")
ALLREDUCE = ("NONE", "ONESHOT", "TWOSHOT", "AUTO")


def _size(text: str) -> bool:
    return text == "-1" or (text.isdecimal() and int(text) > 0)


def _count(text: str) -> bool:
    return text == "-1" or text.isdecimal()


def _one(text: str) -> bool:
    return text == "1"


def _switch(text: str) -> bool:
    return text in ("0", "1")


def _no(text: str) -> bool:
    return text.lower() in ("0", "false")


OVERRIDES: Mapping[str, tuple[Callable[[str], bool], str]] = {
    "context_window_size": (_size, "a number of tokens"),
    "sliding_window_size": (_size, "a number of tokens"),
    "prefill_chunk_size": (_size, "a number of tokens"),
    "attention_sink_size": (_count, "a number of tokens"),
    "max_batch_size": (_size, "a number of sequences"),
    "tensor_parallel_shards": (_one, "1: one device serves a model here"),
    "pipeline_parallel_stages": (_one, "1: one device serves a model here"),
    "disaggregation": (_no, "0: it is not in this version"),
}
OPTIONS: Mapping[str, tuple[Callable[[str], bool], str]] = {
    **dict.fromkeys(SWITCHES, (_switch, "0 or 1")),
    "ipc_allreduce_strategy": (lambda text: text in ALLREDUCE, " or ".join(ALLREDUCE)),
}


def check_overrides(text: str) -> None:
    """Raise `BadConfig` for what MLC LLM would not accept, or this version cannot do."""
    _check("--overrides", text, OVERRIDES)


def check_opt(text: str) -> None:
    """The same for `--opt`: a preset, or its long form."""
    if text not in PRESETS:
        _check(f"--opt {', '.join(PRESETS)} or", text, OPTIONS)


def _check(flag: str, text: str, known: Mapping[str, tuple[Callable[[str], bool], str]]) -> None:
    seen: set[str] = set()
    for part in filter(None, (part.strip() for part in text.split(";"))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in known:
            raise BadConfig(f"{flag}: {key!r} is not known; the known ones are {', '.join(known)}")
        accepts, what = known[key]
        if not equals or not accepts(value):
            raise BadConfig(f"{flag}: {key} must be {what}")
        if key in seen:
            raise BadConfig(f"{flag}: {key} is given twice; leave one of them out")
        seen.add(key)
