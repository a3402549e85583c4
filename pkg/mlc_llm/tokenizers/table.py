"""What every token id stands for, read from a tokenizer.json without the `tokenizers` package.

Three ways of writing texts as vocabulary strings are known, and anything else is refused:

    byte-level      every character of a token is one byte, by GPT-2's map to printable characters
    byte-fallback   a token is text with U+2581 for the space, or one raw byte written <0xHH>
    word pieces     a token is text that begins a word, or goes on with one and begins with ##; how
                    spaces stand around punctuation is not kept, and only encoders are written so

The table knows tokens one by one; how they join into text is `text_stream`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from mlc_llm.errors import BadModel
from mlc_llm.tokenizers.token_bytes import TokenBytes, TokenTexts

MAX_TOKEN_ID = 1 << 22
_SEPARATOR = "\0"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


class _AddedToken(Struct):
    id: int
    content: str
    special: bool = False


class _Model(Struct):
    vocab: dict[str, int] | list[tuple[str, float]]


class _TokenizerFile(Struct):
    model: _Model
    added_tokens: list[_AddedToken] = []
    decoder: dict[str, Any] | None = None


class DecodeRules(Struct, frozen=True):
    """The decoder section of a tokenizer.json, in the order in which its parts apply."""

    byte_level: bool = False
    replace: tuple[tuple[str, str], ...] = ()
    """(pattern, content) pairs, applied inside each token."""
    byte_fallback: bool = False
    word_prefix: str = ""
    """What marks tokens that go on with a word; before others there is a space."""
    strip: str = ""
    """The character that is dropped from the start of the whole text ..."""
    strip_count: int = 0
    """... and how many of it at most."""


class TokenTable:
    """Token id -> text or bytes."""

    def __init__(
        self,
        tokens: TokenBytes,
        rules: DecodeRules,
        special: frozenset[int] = frozenset(),
        raw: frozenset[int] = frozenset(),
        shown: frozenset[int] = frozenset(),
    ) -> None:
        """`raw`: tokens that stand for one byte each; `shown`: of the special ones, by name."""
        self.rules = rules
        self.special = special
        """Special tokens: their bytes are their names, and they show as no text."""
        self.texts = TokenTexts(tokens, special - shown, raw)
        """By id: the text of a token, "" for special tokens and unused ids, None where its bytes
        are to be joined with their neighbours' before they are text."""
        self._tokens = tokens
        self._raw = raw

    @classmethod
    def load(cls, path: Path) -> TokenTable:
        """Read a tokenizer.json, or the one in a folder. Raises BadModel when it cannot be used."""
        if path.is_dir():
            path = path / "tokenizer.json"
        try:
            file = msgspec.json.decode(path.read_bytes(), type=_TokenizerFile)
        except OSError as error:
            raise BadModel(f"The tokenizer {path} cannot be read: {error.strerror}.") from error
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadModel(f"The tokenizer {path} is not a tokenizer.json: {error}.") from error
        return _build(file, read_rules(file.decoder, path))

    def __len__(self) -> int:
        return len(self._tokens)

    def with_special_tokens(self, shown: Iterable[int] | None = None) -> TokenTable:
        """A table in which special tokens, or those of them in `shown`, are text, by name."""
        names = self.special if shown is None else self.special.intersection(shown)
        return TokenTable(self._tokens, self.rules, self.special, self._raw, names)

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes the token stands for, special tokens by name; b"" for an unused id."""
        return self._tokens[token_id] if 0 <= token_id < len(self._tokens) else b""


def read_rules(decoder: dict[str, Any] | None, path: Path) -> DecodeRules:
    """Check that a decoder section is one we join exactly as the `tokenizers` package does."""
    kind = (decoder or {}).get("type")
    steps: list[dict[str, Any]] = (decoder or {}).get("decoders", [])
    parts = steps if kind == "Sequence" else [decoder or {}]
    kinds = [part.get("type") for part in parts]
    if kinds == ["ByteLevel"]:
        return DecodeRules(byte_level=True)
    if kinds == ["WordPiece"]:
        prefix = str(parts[0].get("prefix") or "##")
        return DecodeRules(word_prefix=prefix, strip=" ", strip_count=1)
    order = ["Replace", "ByteFallback", "Fuse", "Strip"]
    ranks = [order.index(kind) if kind in order else -1 for kind in kinds]
    if -1 in ranks or ranks != sorted(ranks) or "Fuse" not in kinds:
        raise BadModel(
            f"The tokenizer {path} has a decoder of an unknown kind ({kind}: {kinds}); "
            "byte-level and byte-fallback decoders are supported."
        )
    strip: dict[str, Any] = parts[-1] if kinds[-1] == "Strip" else {}
    patterns = [part["pattern"] for part in parts if part["type"] == "Replace"]
    if strip.get("stop") or not all("String" in pattern for pattern in patterns):
        raise BadModel(f"The tokenizer {path} has a decoder with a pattern that is not supported.")
    return DecodeRules(
        replace=tuple(
            (part["pattern"]["String"], part["content"])
            for part in parts
            if part["type"] == "Replace"
        ),
        byte_fallback="ByteFallback" in kinds,
        strip=strip.get("content", ""),
        strip_count=strip.get("start", 0),
    )


def _build(file: _TokenizerFile, rules: DecodeRules) -> TokenTable:
    vocab = file.model.vocab
    if isinstance(vocab, list):
        vocab = {token: index for index, (token, _) in enumerate(vocab)}
    ids = list(vocab.values()) + [added.id for added in file.added_tokens]
    if not ids or min(ids) < 0 or max(ids) > MAX_TOKEN_ID:
        raise BadModel("The tokenizer has no tokens, or token ids out of range.")
    tokens = [b""] * (max(ids) + 1)
    raw: set[int] = set()
    ids_of = vocab | {added.content: added.id for added in file.added_tokens}
    plain = [added.content for added in file.added_tokens if not added.special]
    for names in (list(vocab), plain):
        for name, value in zip(names, _decoded(names, rules), strict=True):
            if rules.byte_fallback and isinstance(value, bytes):
                raw.add(ids_of[name])
            tokens[ids_of[name]] = value.encode() if isinstance(value, str) else value
    special = {added.id: added.content.encode() for added in file.added_tokens if added.special}
    for token_id, spelled in special.items():
        tokens[token_id] = spelled
    return TokenTable(TokenBytes(tokens), rules, frozenset(special), frozenset(raw - set(special)))


def _decoded(tokens: list[str], rules: DecodeRules) -> Iterable[str | bytes]:
    if rules.byte_level:
        return _byte_level(tokens)
    if prefix := rules.word_prefix:
        return [t.removeprefix(prefix) if t.startswith(prefix) else f" {t}" for t in tokens]
    return _byte_fallback(tokens, rules)


def _byte_fallback(tokens: list[str], rules: DecodeRules) -> Iterable[str | bytes]:
    """Tokens as text, except the ones that name a raw byte. One pass over one joined string."""
    joined = _SEPARATOR.join(tokens)
    for pattern, content in rules.replace:
        joined = joined.replace(pattern, content)
    replaced = joined.split(_SEPARATOR)
    if len(replaced) != len(tokens):  # a token holds the separator itself
        replaced = [_replaced(token, rules) for token in tokens]
    if not rules.byte_fallback:
        return replaced
    return [
        bytes.fromhex(byte[1]) if len(text) == 6 and (byte := _BYTE_TOKEN.match(text)) else text
        for text in replaced
    ]


def _replaced(token: str, rules: DecodeRules) -> str:
    for pattern, content in rules.replace:
        token = token.replace(pattern, content)
    return token


def byte_characters() -> dict[int, int]:
    """GPT-2's map, turned round: code point of a printable character -> the byte it stands for."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return dict(zip(printable, printable, strict=True)) | {
        256 + index: byte for index, byte in enumerate(hidden)
    }


_BYTE_OF = byte_characters()
_UNMAPPED = {code: 0xFFFF for code in range(256) if code not in _BYTE_OF}


def _byte_level(tokens: list[str]) -> list[bytes]:
    """One character is one byte, so all tokens are translated in one string and cut by their
    lengths.
    """
    try:
        data = "".join(tokens).translate(_BYTE_OF | _UNMAPPED).encode("latin-1")
    except UnicodeEncodeError:  # some token is plain text: an added token, most often
        return list(map(_one_byte_level, tokens))
    ends = list(accumulate(map(len, tokens)))
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _one_byte_level(token: str) -> bytes:
    """A token with any character outside the map stands for its own UTF-8."""
    try:
        return token.translate(_BYTE_OF | _UNMAPPED).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()
