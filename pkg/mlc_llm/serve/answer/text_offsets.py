"""Single tokens as text, and where they start in the text of their choice. Pure."""

from __future__ import annotations


def token_text(token: bytes) -> str:
    """A token as text; a piece of a character is shown by its bytes, as OpenAI does."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def num_characters(token: bytes) -> int:
    """Characters that start in this token: a character starts at every byte that continues none."""
    return sum(byte & 0xC0 != 0x80 for byte in token)


class TextOffsets:
    """Where each token starts in the text of its choice, token by token.

    Counted in the tokens' own bytes, so that it does not depend on how the text was cut into
    deltas.
    """

    def __init__(self, start: int) -> None:
        """`start` may be negative: tokens before the text's beginning have the offset 0."""
        self.characters = start

    def next(self, token: bytes) -> int:
        """Offset of `token`; one that continues a character has the offset of that character."""
        continues = bool(token) and token[0] & 0xC0 == 0x80
        offset = self.characters - 1 if continues else self.characters
        self.characters += num_characters(token)
        return max(0, offset)
