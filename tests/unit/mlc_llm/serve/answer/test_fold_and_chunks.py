"""Folding and streaming are two views of the same news."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_llm.protocol.messages import Delta, Finished, FinishReason, TokenLogprob
from mlc_llm.protocol.responses import CompletionLogProbs, LogProbsContent
from mlc_llm.serve.answer.chunks import ChatChunks, CompletionChunks
from mlc_llm.serve.answer.delta import Answer
from mlc_llm.serve.answer.fold import Fold
from mlc_llm.serve.answer.text_offsets import TextOffsets, token_text
from support.news import cuts, deltas, finished, interleavings, readings


def an_answer(**changes: object) -> Answer:
    fields = {"id": "x", "model": "m", "created": 7, "request_ids": ("x-0",)} | changes
    return Answer(**fields)  # type: ignore[arg-type]


@st.composite
def stories(draw: st.DrawFn) -> tuple[Answer, list[list[Delta]], list[Finished]]:
    """An answer with 1-2 prompts and 1-3 choices each, its news in steps, and the ends."""
    request_ids = tuple(f"x-{i}" for i in range(draw(st.integers(1, 2))))
    n = draw(st.integers(1, 3))
    answer = an_answer(
        request_ids=request_ids,
        n=n,
        logprobs=draw(st.booleans()),
        include_usage=True,
        with_extra=draw(st.booleans()),
        prompt_logprobs=draw(st.booleans()),
        echo=tuple(f"prompt {i}: " for i in request_ids) if draw(st.booleans()) else (),
    )
    histories = [draw(deltas(r, i)) for r in request_ids for i in range(n)]
    news = draw(interleavings(histories))
    if draw(st.booleans()):
        news = [delta for r in request_ids for delta in draw(readings(r))] + news
    return answer, draw(cuts(news)), [draw(finished(r)) for r in request_ids]


def folded(answer: Answer, steps: list[list[Delta]], ends: list[Finished]) -> Fold:
    fold = Fold(answer)
    for step in steps:
        fold.add(step)
    fold.add([], ends)
    return fold


@given(stories())
def test_chat_chunks_add_up_to_the_folded_answer(
    story: tuple[Answer, list[list[Delta]], list[Finished]],
) -> None:
    answer, steps, ends = story
    whole = folded(answer, steps, ends).chat()
    source = ChatChunks(answer)
    chunks = [chunk for step in steps for chunk in source.add(step)] + source.add([], ends)

    text: dict[int, str] = defaultdict(str)
    logprobs: dict[int, list[LogProbsContent]] = defaultdict(list)
    reasons: dict[int, str] = {}
    roles: dict[int, int] = defaultdict(int)
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        (news,) = chunk.choices
        assert news.index not in reasons, "a chunk after the last one"
        roles[news.index] += news.delta.role == "assistant"
        text[news.index] += news.delta.content
        logprobs[news.index] += news.logprobs.content if news.logprobs else []
        if news.finish_reason is not None:
            reasons[news.index] = news.finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    for choice in whole.choices:
        assert text[choice.index] == choice.message.content
        assert reasons[choice.index] == choice.finish_reason
        assert roles[choice.index] == 1
        assert logprobs[choice.index] == (choice.logprobs.content if choice.logprobs else [])


@given(stories())
def test_completion_chunks_add_up_to_the_folded_answer(
    story: tuple[Answer, list[list[Delta]], list[Finished]],
) -> None:
    answer, steps, ends = story
    whole = folded(answer, steps, ends).completion()
    source = CompletionChunks(answer)
    chunks = [chunk for step in steps for chunk in source.add(step)] + source.add([], ends)

    text: dict[int, str] = defaultdict(str)
    parts: dict[int, list[CompletionLogProbs]] = defaultdict(list)
    reasons: dict[int, str] = {}
    for chunk in chunks[:-1]:
        (news,) = chunk.choices
        text[news.index] += news.text
        parts[news.index] += [news.logprobs] if news.logprobs else []
        if news.finish_reason is not None:
            reasons[news.index] = news.finish_reason
    assert chunks[-1].usage == whole.usage
    for choice in whole.choices:
        assert text[choice.index] == choice.text
        assert reasons[choice.index] == choice.finish_reason
        if choice.logprobs is None:
            assert parts[choice.index] == []
            continue
        for field in ("text_offset", "token_logprobs", "tokens", "top_logprobs"):
            joined = [item for part in parts[choice.index] for item in getattr(part, field)]
            assert joined == getattr(choice.logprobs, field)


@given(stories(), st.data())
def test_the_folded_answer_does_not_depend_on_how_the_news_was_cut(
    story: tuple[Answer, list[list[Delta]], list[Finished]], data: st.DataObject
) -> None:
    answer, steps, ends = story
    other = data.draw(cuts([delta for step in steps for delta in step]))
    assert folded(answer, steps, ends).chat() == folded(answer, other, ends).chat()
    assert folded(answer, steps, ends).completion() == folded(answer, other, ends).completion()


def test_the_first_chunk_names_the_role_and_the_last_the_reason() -> None:
    chunks = ChatChunks(an_answer())
    (first,) = chunks.add([Delta("x-0", 0, "Hel", 1)])
    (middle,) = chunks.add([Delta("x-0", 0, "lo", 1)])
    (last,) = chunks.add([Delta("x-0", 0, "!", 1, FinishReason.LENGTH)])
    assert first.model_dump()["choices"][0]["delta"] == {"content": "Hel", "role": "assistant"}
    assert middle.model_dump()["choices"][0]["delta"] == {"content": "lo"}
    assert last.choices[0].finish_reason == "length"
    assert chunks.add([], [Finished("x-0", 1, 3)]) == []
    assert chunks.done


def test_a_delta_that_says_nothing_makes_no_chunk() -> None:
    assert ChatChunks(an_answer()).add([Delta("x-0", 0, "", 1)]) == []


def test_a_choice_the_engine_gave_up_ends_as_aborted() -> None:
    chunks = ChatChunks(an_answer(n=2))
    chunks.add([Delta("x-0", 0, "done", 1, FinishReason.STOP)])
    (last,) = chunks.add([], [Finished("x-0", 1, 1)])
    assert (last.choices[0].index, last.choices[0].finish_reason) == (1, "abort")


def test_choices_of_several_prompts_are_numbered_prompt_by_prompt() -> None:
    fold = Fold(an_answer(request_ids=("a", "b"), n=2, echo=("A:", "B:")))
    fold.add([Delta("b", 0, "third", 1), Delta("a", 1, "second", 1)])
    assert [c.text for c in fold.completion().choices] == ["A:", "A:second", "B:third", "B:"]


def test_usage_counts_every_prompt_once_and_every_choice() -> None:
    fold = Fold(an_answer(request_ids=("a", "b")))
    fold.add([], [Finished("a", 10, 5, cached_tokens=4)])
    fold.add([], [Finished("b", 1, 2)])
    usage = fold.completion().usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (11, 7, 18)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 4
    assert "extra" not in usage.model_dump()


@pytest.mark.parametrize(
    ("tokens", "offsets"),
    [
        ([b"He", b"llo", b"!"], [3, 5, 8]),
        (["日".encode(), b"!"], [3, 4]),
        (["日".encode()[:1], "日".encode()[1:], b"!"], [3, 3, 4]),
    ],
)
def test_text_offsets_count_characters_not_bytes(tokens: list[bytes], offsets: list[int]) -> None:
    counter = TextOffsets(3)
    assert [counter.next(token) for token in tokens] == offsets


def test_a_piece_of_a_character_is_shown_by_its_bytes() -> None:
    assert token_text(b"\xe6\x97") == r"bytes:\xe6\x97"
    fold = Fold(an_answer(logprobs=True))
    fold.add([Delta("x-0", 0, "", 1, logprobs=(TokenLogprob(b"\xe6", -1.0),))])
    logprobs = fold.chat().choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content[0].bytes == [0xE6]


def test_the_likeliest_choices_are_shown_best_first() -> None:
    answer = an_answer(request_ids=("x-0", "x-1"), n=3, shown=2, echo=("p", "q"))
    means = {("x-0", 0): -3.0, ("x-0", 1): -1.0, ("x-0", 2): -2.0}
    means |= {("x-1", 0): -1.0, ("x-1", 1): -5.0, ("x-1", 2): -0.5}
    news = [
        Delta(r, i, f"{r}{i}", 2, FinishReason.STOP, (TokenLogprob(b"t", 2 * mean),) * 2)
        for (r, i), mean in means.items()
    ]
    choices = folded(answer, [news], []).completion().choices
    assert [c.text for c in choices] == ["px-01", "px-02", "qx-12", "qx-10"]
    assert [c.index for c in choices] == [0, 1, 2, 3]
    assert all(c.logprobs is None for c in choices)
