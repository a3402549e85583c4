"""Small tokenizer.json documents of the two kinds, for tests without shared data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlc_llm.tokenizers.table import byte_characters

SPACE = "\u2581"


def byte_level(words: list[str]) -> dict[str, Any]:
    """256 byte tokens, then the words (any bytes that are UTF-8), then special and added tokens."""
    character = {byte: chr(code) for code, byte in byte_characters().items()}
    tokens = [character[byte] for byte in range(256)]
    tokens += ["".join(character[byte] for byte in word.encode()) for word in words]
    added = [("<|end|>", True), ("<think>", False)]
    return {
        "version": "1.0",
        "added_tokens": _added(added, len(tokens)),
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": _bpe(tokens, None),
    }


def word_pieces(words: list[str]) -> dict[str, Any]:
    """[PAD], [UNK], [CLS], [SEP], then the words, as BERT's are: a text is [CLS] text [SEP]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    ends = {"[CLS]": 2, "[SEP]": 3}
    whole: list[dict[str, Any]] = [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    whole.append({"SpecialToken": {"id": "[SEP]", "type_id": 0}})
    cut = {"max_length": 16, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    return {
        "version": "1.0",
        "truncation": cut,
        "added_tokens": _added([(token, True) for token in special], 0),
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
            "strip_accents": None, "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": whole,
            "pair": whole,
            "special_tokens": {
                token: {"id": token, "ids": [i], "tokens": [token]} for token, i in ends.items()
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: i for i, token in enumerate([*special, *words])},
        },
    }  # fmt: skip


def byte_fallback(words: list[str], *, bos: bool = True) -> dict[str, Any]:
    """<unk>, <s>, </s>, 256 byte tokens from id 3, then the words (a space written as it is)."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [word.replace(" ", SPACE) for word in words]
    return {
        "version": "1.0",
        "added_tokens": _added([("<unk>", True), ("<s>", True), ("</s>", True)], 0),
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "post_processor": _bos_template() if bos else None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": _bpe(tokens, "<unk>"),
    }


def write(folder: Path, document: dict[str, Any]) -> Path:
    """The document as `folder`/tokenizer.json; gives the file's path."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(document))
    return path


def _added(tokens: list[tuple[str, bool]], first: int) -> list[dict[str, Any]]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [
        {"id": first + index, "content": content, "special": special, **flags}
        for index, (content, special) in enumerate(tokens)
    ]


def _bpe(tokens: list[str], unknown: str | None) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "fuse_unk": unknown is not None,
        "byte_fallback": unknown is not None,
        "vocab": {token: index for index, token in enumerate(tokens)},
        "merges": [],
        "ignore_merges": True,
    }


def _bos_template() -> dict[str, Any]:
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [bos, text],
        "pair": [bos, text],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
