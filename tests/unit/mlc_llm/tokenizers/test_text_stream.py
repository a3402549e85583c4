"""Streamed text against the `tokenizers` package's text of the whole sequence."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc_llm.errors import BadModel
from mlc_llm.tokenizers.table import TokenTable
from mlc_llm.tokenizers.text_stream import TextStream
from support import toy_tokenizers
from support.shared import shared_path

WORDS = ["Hello", " Hello", "  ", "é", "日本", " 🦙", "ab", "b\n"]
SPACE = 3 + 0x20
REAL = [
    "models/stories260K-hf",
    "models/babyllama105-hf",
    *(
        f"tokenizers/{name}"
        for name in ("gpt2", "llama2", "llama3", "minimind", "mistral-v3", "phi3", "qwen3")
    ),
]
TEXTS = [
    "text/tinystories_197k.txt",
    "text/chatterbot_multilingual/japanese_ai.yml",
    "text/chatterbot_multilingual/hindi_greetings.yml",
    "text/chatterbot_multilingual/chinese_humor.yml",
    "suites/utf8/blns.json",
]


class Both:
    """One tokenizer.json, read by the package and by us."""

    def __init__(self, path: Path) -> None:
        self.oracle = tokenizers.Tokenizer.from_file(str(path))
        self.table = TokenTable.load(path)

    @property
    def size(self) -> int:
        return self.oracle.get_vocab_size(with_added_tokens=True)

    def whole(self, ids: Sequence[int]) -> str:
        return self.oracle.decode(ids, skip_special_tokens=True)

    def pieces(self, ids: Sequence[int], stops: tuple[str, ...] = ()) -> list[str]:
        stream = TextStream(self.table, stops)
        return [*(stream.feed(token)[0] for token in ids), stream.finish()]

    def is_byte(self, token: int) -> bool:
        return self.table.texts[token] is None

    def broken_run(self, ids: Sequence[int]) -> bool:
        """Whether some run of bytes holds whole characters and then is not UTF-8 after all."""
        shown = [token for token in ids if self.table.texts[token] != ""]
        for byte, run in groupby(shown, self.is_byte):
            data = b"".join(map(self.table.bytes_of, run))
            if byte and data.decode(errors="replace").count("\ufffd") and data[0] < 0xF5:
                return True
        return False


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("byte_level")
    return Both(toy_tokenizers.write(folder, toy_tokenizers.byte_level(WORDS)))


@pytest.fixture(scope="module")
def byte_fallback(tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("byte_fallback")
    return Both(toy_tokenizers.write(folder, toy_tokenizers.byte_fallback(WORDS)))


def test_half_a_surrogate_at_the_end_is_two_marks(byte_level: Both) -> None:
    for ids in ([0xED, 0xA0], [0xED], [0xE2, 0x82]):
        assert "".join(byte_level.pieces(ids)) == byte_level.whole(ids)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_ids_of_a_byte_level_vocabulary_stream_to_the_whole_text(
    byte_level: Both, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, byte_level.size - 1), max_size=40))
    assert "".join(byte_level.pieces(ids)) == byte_level.whole(ids)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_ids_of_a_byte_fallback_vocabulary_stream_to_the_whole_text(
    byte_fallback: Both, data: st.DataObject
) -> None:
    bytes_of_text = st.text(max_size=3).map(lambda text: [3 + byte for byte in text.encode()])
    bad_bytes = st.just([3 + 0xFF, 3 + 0xC3])
    word = st.integers(0, byte_fallback.size - 1).map(lambda token: [token])
    separator = [3 + 256 + WORDS.index("ab")]
    runs = data.draw(st.lists(bytes_of_text | bad_bytes | word, max_size=20))
    ids = [token for run in runs for token in (*run, *separator)]
    whole = byte_fallback.whole(ids)
    if not byte_fallback.broken_run(ids):
        assert "".join(byte_fallback.pieces(ids)) == whole


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_broken_run_of_bytes_costs_one_mark_per_byte_that_was_not_shown(
    byte_fallback: Both, data: st.DataObject
) -> None:
    text = data.draw(st.text(max_size=5))
    tail = data.draw(st.binary(max_size=4))
    run = [3 + byte for byte in text.encode() + b"\xff" + tail]
    marks = "\ufffd" * (1 + len(tail))
    assert "".join(byte_fallback.pieces([259, *run, 259])) == f"Hello{text}{marks}Hello"


def test_a_byte_is_shown_as_soon_as_it_ends_a_character(byte_fallback: Both) -> None:
    stream = TextStream(byte_fallback.table)
    assert stream.feed(3 + 0x0A) == ("\n", False)
    assert [stream.feed(3 + byte)[0] for byte in "é".encode()] == ["", "é"]


def test_a_special_token_inside_a_character_does_not_break_it(byte_level: Both) -> None:
    end = 256 + len(WORDS)
    assert byte_level.pieces([0xC3, end, 0xA9]) == ["", "", "é", ""]


def test_an_added_token_that_is_not_special_shows_its_text(byte_level: Both) -> None:
    think = 256 + len(WORDS) + 1
    assert "".join(byte_level.pieces([0x41, think])) == "A<think>"


def test_the_leading_space_of_the_whole_text_is_dropped_once(byte_fallback: Both) -> None:
    spaces = 3 + 256 + WORDS.index("  ")
    assert byte_fallback.pieces([1, SPACE, spaces]) == ["", "", "  ", ""]
    assert byte_fallback.pieces([spaces, SPACE]) == [" ", " ", ""]


def test_a_text_that_continues_a_prompt_keeps_its_leading_space(byte_fallback: Both) -> None:
    hello = 3 + 256 + WORDS.index(" Hello")
    assert TextStream(byte_fallback.table).feed(hello) == ("Hello", False)
    assert TextStream(byte_fallback.table, continues=True).feed(hello) == (" Hello", False)


def test_an_unfinished_character_is_marked_at_the_end(byte_level: Both) -> None:
    assert byte_level.pieces([0xF0, 0x9F, 0xA6]) == ["", "", "", "\ufffd"]


def test_an_id_outside_the_vocabulary_stands_for_nothing(byte_level: Both) -> None:
    assert byte_level.pieces([0xC3, 999_999, 0xA9]) == ["", "", "é", ""]
    assert byte_level.table.bytes_of(999_999) == b""


def test_a_special_token_has_its_name_as_bytes(byte_level: Both) -> None:
    assert byte_level.table.bytes_of(256 + len(WORDS)) == b"<|end|>"
    assert byte_level.table.bytes_of(256) == b"Hello"
    assert byte_level.table.bytes_of(0xC3) == b"\xc3"


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_stop_strings_cut_the_stream_where_they_cut_the_whole_text(
    byte_level: Both, data: st.DataObject
) -> None:
    alphabet = [*b"ab\n", *"é".encode(), *(256 + WORDS.index(word) for word in ("ab", "b\n", "é"))]
    ids = data.draw(st.lists(st.sampled_from(alphabet), max_size=30))
    stops = data.draw(st.lists(st.text("abé\n", min_size=1, max_size=4), min_size=1, max_size=3))
    stream = TextStream(byte_level.table, tuple(stops))
    shown = "".join(stream.feed(token)[0] for token in ids) + stream.finish()
    whole = byte_level.whole(ids)
    ends = [whole.find(stop) + len(stop) for stop in stops if stop in whole]
    assert stream.stopped == bool(ends)
    if ends:
        longest = max(len(stop) for stop in stops if whole[: min(ends)].endswith(stop))
        whole = whole[: min(ends) - longest]
    assert shown == whole


def test_text_before_the_stop_in_the_same_token_is_kept(byte_level: Both) -> None:
    stream = TextStream(byte_level.table, ("llo",))
    assert stream.feed(256) == ("He", True)
    assert stream.feed(256) == ("", True)
    assert stream.finish() == ""


def test_a_decoder_of_an_unknown_kind_is_refused_by_name(tmp_path: Path) -> None:
    document = toy_tokenizers.byte_level(WORDS) | {"decoder": {"type": "BPEDecoder"}}
    with pytest.raises(BadModel, match="BPEDecoder"):
        TokenTable.load(toy_tokenizers.write(tmp_path, document))


def test_word_pieces_begin_words_or_go_on_with_them(tmp_path: Path) -> None:
    document = toy_tokenizers.word_pieces(["dog", "##s", "run"])
    table = TokenTable.load(toy_tokenizers.write(tmp_path, document))
    assert [table.bytes_of(i) for i in (2, 4, 5, 6)] == [b"[CLS]", b" dog", b"s", b" run"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"model":{"vocab":{"a":-1}}}', '{"model":{"vocab":{"a":999999999}}}']
)
def test_a_broken_tokenizer_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(BadModel):
        TokenTable.load(tmp_path)


def test_a_missing_tokenizer_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="cannot be read"):
        TokenTable.load(tmp_path)


@pytest.fixture(scope="module", params=REAL)
def real(request: pytest.FixtureRequest) -> Any:
    return Both(shared_path(f"data/{request.param}/tokenizer.json"))


def test_every_token_of_a_real_tokenizer_alone_is_its_text(real: Both) -> None:
    ids = range(0, real.size, 1 + real.size // 2000)
    different = [token for token in ids if "".join(real.pieces([token])) != real.whole([token])]
    assert different == []


def test_real_texts_stream_to_the_whole_text(real: Both) -> None:
    for name in TEXTS:
        text = shared_path(f"data/{name}").read_text()[:10_000]
        ids = real.oracle.encode(text).ids
        assert "".join(real.pieces(ids)) == real.whole(ids)
        assert "".join(real.pieces(ids, ("\u0001\u0002",))) == real.whole(ids)


def test_random_ids_of_a_real_tokenizer_stream_to_the_whole_text(real: Both) -> None:
    chance = random.Random(7)
    for _ in range(50):
        ids = [chance.randrange(real.size) for _ in range(50)]
        if real.table.rules.byte_level or not real.broken_run(ids):
            assert "".join(real.pieces(ids)) == real.whole(ids)


def test_the_stop_string_shows_when_it_is_to(tmp_path: Path) -> None:
    path = toy_tokenizers.write(tmp_path, toy_tokenizers.byte_level(["Hello", "ab"]))
    stream = TextStream(TokenTable.load(path), ("loa",), keep_stop_str=True)
    assert stream.feed(256) == ("Hel", False)
    assert stream.feed(257) == ("loa", True)


def test_special_tokens_show_by_name_in_a_table_that_has_them(tmp_path: Path) -> None:
    path = toy_tokenizers.write(tmp_path, toy_tokenizers.byte_level(["Hello"]))
    table = TokenTable.load(path)
    (special,) = table.special
    assert TextStream(table).feed(special) == ("", False)
    complete = table.with_special_tokens()
    assert TextStream(complete).feed(special) == ("<|end|>", False)
    assert complete.bytes_of(special) == table.bytes_of(special)
