"""An encoder in a GGUF file cuts texts and pools as the folder it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from mlc_llm.errors import BadModel
from mlc_llm.models.folder import open_folder
from mlc_llm.models.gguf.file import read_header
from mlc_llm.models.gguf.tokenizer import tokenizer
from mlc_llm.models.gguf.unpack import unpack
from support import gguf_families, gguf_files, toy_tokenizers

WORDS = ["the", "##s", "cat", "##cat", "a", ",", "!", "[", "##ing", "run", "漢", "e"]
TEXTS = ["the cats, a RUNNING cat!", "Thecatcat é 漢字 [CLS] [x]", "", " \t\n a", "runing unknown"]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLC_LLM_HOME", str(tmp_path / "home"))


def written(tmp_path: Path, document: dict[str, Any], **changes: Any) -> Path:
    """As llama.cpp's converter writes it: a mark before what begins a word, no ## before others."""
    special = {added["id"] for added in document["added_tokens"]}
    tokens = [
        token if i in special else token[2:] if token.startswith("##") else f"\u2581{token}"
        for token, i in document["model"]["vocab"].items()
    ]
    model = gguf_families.converted("bert")
    values = {
        **model.values,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if i in special else 1 for i in range(len(tokens))],
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    tensors = gguf_families.gguf_tensors(model)
    stored = {name: gguf_files.encode(rows, "F32") for name, rows in tensors.items()}
    return gguf_files.write(tmp_path / "m.gguf", values, stored)


def check_same(path: Path, document: dict[str, Any]) -> None:
    found = Tokenizer.from_str(json.dumps(tokenizer(read_header(path))))
    expected = Tokenizer.from_str(json.dumps({**document, "truncation": None}))
    for text in TEXTS:
        assert found.encode(text).ids == expected.encode(text).ids, text
        assert found.decode(found.encode(text).ids) == expected.decode(expected.encode(text).ids)


@pytest.mark.parametrize("words", [WORDS, [*WORDS, "The"]])
@pytest.mark.parametrize("says", [True, False])
def test_words_are_cut_as_by_the_folders_tokenizer(
    words: list[str], says: bool, tmp_path: Path
) -> None:
    """Vocabularies with capitals are those of models that tell them apart."""
    document = toy_tokenizers.word_pieces(words)
    lower = document["normalizer"]["lowercase"] = "The" not in words
    changes = {"tokenizer__ggml__normalizer__lowercase": lower} if says else {}
    check_same(written(tmp_path, document, **changes), document)


def test_a_name_in_brackets_stays_one_in_old_files(tmp_path: Path) -> None:
    document = toy_tokenizers.word_pieces([*WORDS, "[unused1]"])
    path = written(tmp_path, document)
    values = dict(read_header(path).values)
    tokens = [
        token.replace("\u2581[unused1]", "[unused1]") for token in values["tokenizer.ggml.tokens"]
    ]
    check_same(written(tmp_path, document, tokenizer__ggml__tokens=tokens), document)


def test_a_vocabulary_without_its_ends_is_refused(tmp_path: Path) -> None:
    document = toy_tokenizers.word_pieces(WORDS)
    tokens = {"tokenizer__ggml__tokens": ["[PAD]", "[UNK]", "[CLS]"]}
    path = written(tmp_path, document, **tokens, tokenizer__ggml__token_type=[3, 3, 3])
    with pytest.raises(BadModel, match=r"m\.gguf: tokenizer\.ggml\.tokens: has no \[SEP\]"):
        tokenizer(read_header(path))


@pytest.mark.parametrize(
    ("kind", "pooling"), [(0, "mean"), (1, "mean"), (2, "cls"), (3, "last"), (None, "mean")]
)
def test_texts_are_pooled_as_the_file_says(kind: int | None, pooling: str, tmp_path: Path) -> None:
    changes = {} if kind is None else {"bert__pooling_type": kind}
    folder = open_folder(unpack(written(tmp_path, toy_tokenizers.word_pieces(WORDS), **changes)))
    assert folder.architecture.encoder
    assert folder.pooling == pooling


def test_a_model_that_ranks_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, toy_tokenizers.word_pieces(WORDS), bert__pooling_type=4)
    with pytest.raises(BadModel, match=r"bert\.pooling_type: 4 is not supported"):
        unpack(path)
