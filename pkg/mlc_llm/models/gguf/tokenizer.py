"""tokenizer.json and tokenizer_config.json of the model in a GGUF file. Pure.

Three kinds of tokenizers are read: "gpt2", byte-level BPE with the merges in the file, whose way to
cut text into words the file only names (`words`); "llama", a SentencePiece BPE whose merges follow
from the scores of its pieces; and "bert" (`wordpiece`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlc_llm.models.gguf.file import GgufFile
from mlc_llm.models.gguf.keys import Keys
from mlc_llm.models.gguf.wordpiece import wordpiece
from mlc_llm.models.gguf.words import BYTE_LEVEL, WORDS, Words, named

SPACE = "\u2581"
MAX_PIECE = 256
"""Characters; to look for the parts of a piece takes the square of that."""
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
"""Values of token_type that matter here."""


def tokenizer(file: GgufFile) -> dict[str, Any]:
    """tokenizer.json. Raises `BadModel` for a kind that is not supported."""
    keys = Keys(file)
    kind = keys.get("tokenizer.ggml.model", str)
    if kind not in ("gpt2", "llama", "bert"):
        raise keys.fault(
            "tokenizer.ggml.model", f"{kind!r} is not supported; use a gpt2, llama or bert one"
        )
    tokens, types = _tokens(keys)
    whole = (CONTROL,) if kind == "bert" else (UNKNOWN, CONTROL, USER_DEFINED)
    added = [
        _added(i, tokens[i], int(types[i])) for i in np.flatnonzero(np.isin(types, whole)).tolist()
    ]
    document = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    if kind == "bert":
        return {**document, **wordpiece(keys, tokens, types.tolist())}
    parts = _byte_level(keys, tokens) if kind == "gpt2" else _sentencepiece(keys, tokens, types)
    bos = _bos(keys, tokens)
    begin = _begin(tokens[bos], bos) if bos is not None else None
    return {**document, **parts, "post_processor": begin}


def tokenizer_config(file: GgufFile) -> dict[str, Any]:
    """tokenizer_config.json."""
    keys = Keys(file)
    tokens, _ = _tokens(keys)
    config: dict[str, Any] = {"add_bos_token": _bos(keys, tokens) is not None}
    for name in ("bos", "eos", "unknown"):
        number = keys.get(f"tokenizer.ggml.{name}_token_id", int)
        if number is not None and number < len(tokens):
            config["unk_token" if name == "unknown" else f"{name}_token"] = tokens[number]
    if (template := keys.get("tokenizer.chat_template", str)) is not None:
        config["chat_template"] = template
    return config


def _tokens(keys: Keys) -> tuple[list[str], np.ndarray[Any, Any]]:
    tokens = keys.get("tokenizer.ggml.tokens", list)
    if not tokens:
        raise keys.fault("tokenizer.ggml.tokens", "is missing or empty")
    types = keys.get("tokenizer.ggml.token_type", np.ndarray)
    if types is None:
        types = np.ones(len(tokens), np.int32)
    if len(types) != len(tokens):
        raise keys.fault(
            "tokenizer.ggml.token_type", f"has {len(types)} entries for {len(tokens)} tokens"
        )
    table = keys.file.tensors.get("token_embd.weight")
    if table is not None and len(tokens) > table.shape[0]:
        raise keys.fault(
            "tokenizer.ggml.tokens",
            f"has {len(tokens)} tokens but token_embd.weight only {table.shape[0]} rows",
        )
    return tokens, types


def _bos(keys: Keys, tokens: Sequence[str]) -> int | None:
    """The token that begins every text, if one does."""
    wanted = keys.get("tokenizer.ggml.add_bos_token", bool)
    if wanted is None:
        kind = keys.get("tokenizer.ggml.model", str)
        wanted = kind == "llama" or (kind == "gpt2" and _words(keys).bos)
    bos = keys.get("tokenizer.ggml.bos_token_id", int)
    if not wanted or bos is None:
        return None
    if bos >= len(tokens):
        raise keys.fault("tokenizer.ggml.bos_token_id", f"{bos} is no token of {len(tokens)}")
    return int(bos)


def _byte_level(keys: Keys, tokens: Sequence[str]) -> dict[str, Any]:
    words = _words(keys)
    return {
        "normalizer": {"type": "NFC"} if words.nfc else None,
        "pre_tokenizer": words.pre_tokenizer,
        "decoder": {**BYTE_LEVEL, "add_prefix_space": True, "use_regex": True},
        "model": _bpe(keys, tokens, _given_merges(keys), None, words.ignore_merges),
    }


def _words(keys: Keys) -> Words:
    pre = named(keys.get("tokenizer.ggml.pre", str), keys.architecture)
    if pre not in WORDS:
        known = ", ".join(WORDS)
        raise keys.fault("tokenizer.ggml.pre", f"{pre!r} is not supported; use one of {known}")
    return WORDS[pre]


def remark(file: GgufFile) -> str | None:
    """What a user should know of a tokenizer that the file does not wholly describe."""
    keys = Keys(file)
    pre = keys.get("tokenizer.ggml.pre", str)
    meant = named(pre, keys.architecture)
    if keys.get("tokenizer.ggml.model", str) != "gpt2" or pre == meant:
        return None
    return (
        f"{file.path}: tokenizer.ggml.pre is {'missing' if pre is None else repr(pre)}; words are "
        f"cut as {meant!r} cuts them, which may not be how the model learnt them"
    )


def _given_merges(keys: Keys) -> list[tuple[str, str]]:
    merges = []
    for line in keys.get("tokenizer.ggml.merges", list) or []:
        left, space, right = line.partition(" ")
        if not (left and space and right):
            raise keys.fault("tokenizer.ggml.merges", f"{line[:64]!r} is not two tokens")
        merges.append((left, right))
    return merges


def _sentencepiece(
    keys: Keys, tokens: Sequence[str], types: np.ndarray[Any, Any]
) -> dict[str, Any]:
    scores = keys.get("tokenizer.ggml.scores", np.ndarray)
    if scores is None or len(scores) != len(tokens):
        raise keys.fault("tokenizer.ggml.scores", f"has no entry for each of {len(tokens)} tokens")
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prefix = keys.get("tokenizer.ggml.add_space_prefix", bool)
    prepend = [] if prefix is False else [{"type": "Prepend", "prepend": SPACE}]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prepend:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = np.flatnonzero(types == UNKNOWN).tolist()
    pieces = [i for i in range(len(tokens)) if types[i] not in (UNKNOWN, CONTROL)]
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(
            keys,
            tokens,
            merges_by_score({tokens[i]: (float(scores[i]), i) for i in pieces}),
            tokens[unknown[0]] if unknown else None,
            False,
        ),
    }


def merges_by_score(pieces: Mapping[str, tuple[float, int]]) -> list[tuple[str, str]]:
    """The merges of a SentencePiece BPE: every way to put a piece together from two others.

    `pieces` gives score and id. The piece of the highest score is made first, and of the ways to
    make it the one whose parts come first in the vocabulary. Nothing makes a piece too long.
    """
    found: list[tuple[float, int, int, int, str, str]] = []
    for piece, (score, number) in pieces.items():
        for at in range(1, len(piece) if len(piece) <= MAX_PIECE else 0):
            left, right = piece[:at], piece[at:]
            if left in pieces and right in pieces:
                found.append((-score, number, pieces[left][1], pieces[right][1], left, right))
    found.sort()
    return [(left, right) for *_, left, right in found]


def _bpe(
    keys: Keys,
    tokens: Sequence[str],
    merges: list[tuple[str, str]],
    unknown: str | None,
    ignore_merges: bool,
) -> dict[str, Any]:
    vocab: dict[str, int] = {}
    for i, token in enumerate(tokens):
        if vocab.setdefault(token, i) != i:
            raise keys.fault("tokenizer.ggml.tokens", f"has {token[:64]!r} twice")
    for left, right in merges:
        if left not in vocab or right not in vocab or left + right not in vocab:
            pair = f"{left[:64]} {right[:64]}"
            raise keys.fault("tokenizer.ggml.merges", f"{pair!r} names what is no token")
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": unknown is not None,
        "byte_fallback": unknown is not None,
        "ignore_merges": ignore_merges,
        "vocab": vocab,
        "merges": merges,
    }


def _added(number: int, content: str, kind: int) -> dict[str, Any]:
    """A run of spaces that was given by hand is looked for after spaces were replaced."""
    flags: dict[str, bool] = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    flags["normalized"] = kind == USER_DEFINED and SPACE in content
    return {"id": number, "content": content, **flags, "special": kind != USER_DEFINED}


def _begin(token: str, number: int) -> dict[str, Any]:
    bos = {"SpecialToken": {"id": token, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [bos, text],
        "pair": [bos, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }
