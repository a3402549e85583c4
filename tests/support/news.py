"""Made-up news of an engine: what several requests say, and ways to cut it into steps."""

from __future__ import annotations

from hypothesis import strategies as st
from msgspec.structs import replace

from mlc_llm.protocol.messages import Delta, Finished, FinishReason, PromptToken, TokenLogprob

TOKENS = [b" the", b"a", "é".encode(), "é".encode()[:1], "é".encode()[1:], "日本".encode(), b"\n"]
"""Whole words, characters of several bytes, and pieces of one."""


def token_logprobs() -> st.SearchStrategy[TokenLogprob]:
    """One generated token with up to two alternatives."""
    scored = st.tuples(st.sampled_from(TOKENS), st.floats(-20, 0))
    return st.builds(
        TokenLogprob,
        token=st.sampled_from(TOKENS),
        logprob=st.floats(-20, 0),
        top=st.lists(scored, max_size=2).map(tuple),
    )


def deltas(request_id: str, index: int) -> st.SearchStrategy[list[Delta]]:
    """All that happens to one choice; most choices end, some are given up."""
    plain = st.builds(
        Delta,
        request_id=st.just(request_id),
        index=st.just(index),
        text=st.sampled_from(["", "a", "the ", "日本"]),
        num_tokens=st.integers(0, 3),
        logprobs=st.lists(token_logprobs(), max_size=2).map(tuple),
    )
    last = st.one_of(st.none(), st.sampled_from(list(FinishReason)))

    def end(parts: list[Delta], reason: FinishReason | None) -> list[Delta]:
        return [*parts[:-1], replace(parts[-1], finish_reason=reason)]

    return st.builds(end, st.lists(plain, min_size=1, max_size=6), last)


@st.composite
def readings(draw: st.DrawFn, request_id: str) -> list[Delta]:
    """What is told of a prompt of 1-4 tokens, in one delta or several."""
    tokens = [PromptToken(9, b"<s>", None, 0)]
    for _ in range(draw(st.integers(0, 3))):
        token, logprob = draw(st.sampled_from(TOKENS)), draw(st.floats(-20, 0))
        tokens.append(PromptToken(len(tokens), token, logprob, 2, ((7, b"a", 0.0),)))
    cut = draw(st.integers(0, len(tokens)))
    parts = [part for part in (tokens[:cut], tokens[cut:]) if part]
    return [Delta(request_id, 0, "", 0, prompt=tuple(part)) for part in parts]


def finished(request_id: str) -> st.SearchStrategy[Finished]:
    """The end of one request."""
    counts = st.integers(0, 1000)
    times = st.floats(0, 10)
    return st.builds(
        Finished,
        request_id=st.just(request_id),
        prompt_tokens=counts,
        completion_tokens=counts,
        cached_tokens=counts,
        queue_s=times,
        prefill_s=times,
        decode_s=times,
    )


@st.composite
def interleavings(draw: st.DrawFn, histories: list[list[Delta]]) -> list[Delta]:
    """The choices' histories as one, each in its own order."""
    left = [list(history) for history in histories]
    merged = []
    while any(left):
        source = draw(st.sampled_from([history for history in left if history]))
        merged.append(source.pop(0))
    return merged


@st.composite
def cuts(draw: st.DrawFn, news: list[Delta]) -> list[list[Delta]]:
    """The same news over several steps, in order."""
    steps: list[list[Delta]] = [[]]
    for delta in news:
        if draw(st.booleans()):
            steps.append([])
        steps[-1].append(delta)
    return steps
