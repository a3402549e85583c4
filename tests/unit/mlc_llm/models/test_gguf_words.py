"""Words are cut as llama.cpp and the models' own tokenizers cut them, by every name for it.

What is expected was compared with llama.cpp's server, text by text, over a real vocabulary. Where
the two differ the model's own tokenizer.json is followed: NFC, and marks and digits that are not
ASCII.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mlc_llm.errors import BadModel
from mlc_llm.models.gguf.file import read_header
from mlc_llm.models.gguf.tokenizer import remark, tokenizer
from mlc_llm.models.gguf.unpack import unpack
from mlc_llm.models.gguf.words import USUAL, WORDS, named
from support import gguf_files, toy_tokenizers
from support.folders import tiny_llama

TEXT = "I'LL say fooBar2's 12345 漢字x,!\r\n  \ty 3.5"
CUT = {
    ("a.x-4.0", "gigachat", "gpt-2", "mellum", "olmo", "phi-2", "trillion"): (
        "I|'|LL| say| fooBar|2|'s| 12345| 漢字x|,!|\r\n  |\t|y| 3|.|5"
    ),
    (
        *("dbrx", "falcon3", "llama-bpe", "llama-v3", "llama3", "midm-2.0"),
        *("pixtral", "smaug-bpe"),
    ): "I|'LL| say| fooBar|2|'s| |123|45| 漢字x|,!\r\n|  |\ty| |3|.|5",
    ("deepseek-coder", "deepseek-llm"): (
        "I|'|LL| say| fooBar|2|'|s| |1|2|3|4|5| |漢字|x|,!|\r|\n|  |\ty| |3|.|5"
    ),
    ("deepseek-r1-qwen", "f2llmv2", "kormo", "megrez", "qwen2", "stablelm2"): (
        "I|'LL| say| fooBar|2|'s| |1|2|3|4|5| 漢字x|,!\r\n|  |\ty| |3|.|5"
    ),
    ("deepseek-v3", "joyai-llm"): (
        "I|'LL| say| fooBar|2|'s| |123|45| |漢字|x|,!\r\n|  |\ty| |3|.|5"
    ),
    ("gpt-4o", "kanana2"): "I'LL| say| foo|Bar|2|'s| |123|45| 漢字x|,!\r\n|  |\ty| |3|.|5",
    ("minerva-7b", "refact", "smollm", "starcoder"): (
        "I|'|LL| say| fooBar|2|'s| |1|2|3|4|5| 漢字x|,!|\r\n  |\t|y| |3|.|5"
    ),
    ("seed-coder",): "I|'LL| say| fooBar|2|'s| |1|2|3|4|5| 漢字x|,!|\r\n|  |\ty| |3|.|5",
    ("superbpe",): "I'LL say fooBar|2|'s |12|345| 漢字x,!\r\n  \ty |3|.|5",
    ("tekken",): "I|'LL| say| foo|Bar|2|'s| |1|2|3|4|5| 漢字x|,!\r\n|  |\ty| |3|.|5",
}


def written(tmp_path: Path, pre: str | None, architecture: str = "llama") -> Path:
    values = gguf_files.tokenizer_values(toy_tokenizers.byte_level(["the"]))
    if pre is not None:
        values["tokenizer.ggml.pre"] = pre
    arch = tiny_llama(vocab_size=300, intermediate_size=96)
    model = gguf_files.model_values(arch, architecture)
    return gguf_files.write(
        tmp_path / "t.gguf", {**model, **values}, gguf_files.llama_tensors(arch)
    )


@pytest.mark.parametrize("names", CUT)
def test_words_are_cut_where_llama_cpp_cuts_them(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        made = tokenizer(read_header(written(tmp_path, name)))
        cut = Tokenizer.from_str(json.dumps(made)).pre_tokenizer.pre_tokenize_str(TEXT)
        assert "|".join(TEXT[first:last] for _, (first, last) in cut) == CUT[names], name


def test_every_name_is_tested() -> None:
    assert sorted(name for names in CUT for name in names) == sorted(WORDS)
    assert set(USUAL.values()) <= set(WORDS)


def test_an_unknown_name_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"t\.gguf: tokenizer\.ggml\.pre: 'poro-chat' is not suppo"):
        tokenizer(read_header(written(tmp_path, "poro-chat")))


@pytest.mark.parametrize("pre", [None, "default"])
@pytest.mark.parametrize(("architecture", "meant"), [("llama", "gpt-2"), ("qwen3", "qwen2")])
def test_a_file_that_does_not_say_is_taken_for_the_usual_with_a_warning(
    pre: str | None,
    architecture: str,
    meant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLC_LLM_HOME", str(tmp_path / "home"))
    path = written(tmp_path, pre, architecture)
    assert named(pre, architecture) == meant
    made = tokenizer(read_header(path))
    assert made["pre_tokenizer"] == WORDS[meant].pre_tokenizer
    with caplog.at_level(logging.WARNING):
        unpack(path)
    (record,) = caplog.records
    assert f"{path}: tokenizer.ggml.pre is " in record.message
    assert f"words are cut as {meant!r}" in record.message


def test_a_file_that_says_it_is_not_remarked_upon(tmp_path: Path) -> None:
    assert remark(read_header(written(tmp_path, "qwen2"))) is None
