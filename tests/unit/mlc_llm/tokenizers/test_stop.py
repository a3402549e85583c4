"""Stop strings over text in pieces."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlc_llm.tokenizers.stop import StopStrings

STOPS = st.lists(st.text("ab", min_size=2, max_size=4), min_size=1, max_size=3).map(tuple)
PIECES = st.lists(st.text("ab", max_size=6), max_size=8)


def _cut(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """The same rule, said without an automaton: the first character that ends a stop ends it."""
    for end in range(1, len(text) + 1):
        met = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if met:
            return text[: end - max(met)], True
    return text, False


@settings(deadline=None, max_examples=100)
@example(pieces=["aa", "ab"], stops=("aab",))
@example(pieces=["xa", "b"], stops=("ab", "b"))
@example(pieces=["xa", "b"], stops=("b", "ab"))
@given(pieces=PIECES, stops=STOPS)
def test_any_cutting_into_pieces_gives_what_the_whole_text_gives(
    pieces: list[str], stops: tuple[str, ...]
) -> None:
    matcher = StopStrings(stops)
    shown = "".join(matcher.feed(piece)[0] for piece in pieces) + matcher.finish()
    assert (shown, matcher.stopped) == _cut("".join(pieces), stops)


@settings(deadline=None, max_examples=100)
@given(pieces=PIECES, stops=STOPS)
def test_text_is_withheld_only_while_it_may_become_a_stop(
    pieces: list[str], stops: tuple[str, ...]
) -> None:
    matcher = StopStrings(stops)
    shown = known = ""
    for piece in pieces:
        text, stopped = matcher.feed(piece)
        if stopped:
            return
        shown += text
        known += piece
        held = known[len(shown) :]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_nothing_is_shown_after_a_stop() -> None:
    matcher = StopStrings(("END",))
    assert matcher.feed("one EN") == ("one ", False)
    assert matcher.feed("D two") == ("", True)
    assert matcher.feed("three") == ("", True)
    assert matcher.finish() == ""


def test_withheld_text_is_given_back_at_the_end() -> None:
    matcher = StopStrings(("END",))
    assert matcher.feed("one EN") == ("one ", False)
    assert matcher.finish() == "EN"
