"""The WordPiece tokenizer of encoders: "bert", as part of tokenizer.json. Pure.

In the file a token that begins a word has a mark before it, and one that goes on has lost its ##.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlc_llm.models.gguf.keys import Keys

MARK = "\u2581"
_CONTROL = 3


def wordpiece(keys: Keys, tokens: Sequence[str], types: Sequence[int]) -> dict[str, Any]:
    """Everything but the added tokens. Raises `BadModel` for a file without the usual tokens."""
    written = [_written(token, kind) for token, kind in zip(tokens, types, strict=True)]
    vocab: dict[str, int] = {}
    for i, token in enumerate(written):
        if vocab.setdefault(token, i) != i:
            raise keys.fault("tokenizer.ggml.tokens", f"has {token[:64]!r} twice")
    if missing := [name for name in ("[CLS]", "[SEP]", "[UNK]") if name not in vocab]:
        raise keys.fault("tokenizer.ggml.tokens", f"has no {missing[0]}, as a bert one must")
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": keys.get("tokenizer.ggml.normalizer.strip_accents", bool),
            "lowercase": _lowercase(keys, vocab),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _around(vocab),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }


def _written(token: str, kind: int) -> str:
    if token.startswith(MARK):
        return token[1:]
    is_name = token.startswith("[") and token.endswith("]")  # old files leave all such as they are
    return token if kind == _CONTROL or is_name else f"##{token}"


def _lowercase(keys: Keys, vocab: Mapping[str, int]) -> bool:
    """Where the file does not say: whether no word has a capital."""
    said = keys.get("tokenizer.ggml.normalizer.lowercase", bool)
    if said is not None:
        return bool(said)
    return not any("A" <= token[:1] <= "Z" for token in vocab)


def _around(vocab: Mapping[str, int]) -> dict[str, Any]:
    """[CLS] text [SEP]"""
    first: dict[str, Any] = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
    last: dict[str, Any] = {"SpecialToken": {"id": "[SEP]", "type_id": 0}}
    text: dict[str, Any] = {"Sequence": {"id": "A", "type_id": 0}}
    other = [
        {"Sequence": {"id": "B", "type_id": 1}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
    ]
    return {
        "type": "TemplateProcessing",
        "single": [first, text, last],
        "pair": [first, text, last, *other],
        "special_tokens": {
            token: {"id": token, "ids": [vocab[token]], "tokens": [token]}
            for token in ("[CLS]", "[SEP]")
        },
    }
