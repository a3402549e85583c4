"""Token ids to text, one at a time: bytes into characters, then stop strings.

The pieces, joined, are what the `tokenizers` package gives for the whole sequence with special
tokens skipped. A run of byte-fallback tokens that turns out not to be UTF-8 is the one exception:
the package marks every byte of the run with U+FFFD, a stream does not take back the characters it
has already shown, and marks only the rest.
"""

from __future__ import annotations

from codecs import utf_8_decode

from mlc_llm.tokenizers.stop import StopStrings
from mlc_llm.tokenizers.table import TokenTable

REPLACEMENT = "\ufffd"


class TextStream:
    """The text of one choice: never half a character nor part of a stop string, all else."""

    __slots__ = ("_broken", "_busy", "_bytes", "_open", "_stops", "_strip", "_table", "_texts")

    def __init__(
        self,
        table: TokenTable,
        stop_strs: tuple[str, ...] = (),
        *,
        continues: bool = False,
        keep_stop_str: bool = False,
    ) -> None:
        """`stop_strs` are not empty strings.

        `continues`: the text goes on from a text that is there already, a prompt. The space that
        some tokenizers drop at the start of a text is then kept, so that prompt + text is right.
        `keep_stop_str`: the stop string that ends the text shows in it.
        """
        self._table = table
        self._texts = table.texts
        self._stops = StopStrings(stop_strs, keep=keep_stop_str) if stop_strs else None
        self._strip = 0 if continues else table.rules.strip_count
        self._bytes = b""
        self._broken = False
        self._open = False
        """Whether the next token may join with what came before: bytes wait, or a run is broken."""
        self._busy = bool(stop_strs) or self._strip > 0
        """Whether assembled text needs more work before it is shown."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met."""
        return self._stops is not None and self._stops.stopped

    def feed(self, token_id: int) -> tuple[str, bool]:
        """The text that this token makes safe to show, and whether a stop string was met.

        Ids outside the vocabulary stand for no text.
        """
        try:
            text = self._texts[token_id]
        except IndexError:
            text = ""
        if text is None or self._open:
            text = self._assemble(token_id, text)
        if self._busy:
            return self._show(text)
        return text, False

    def finish(self) -> str:
        """What was still held back; no more tokens will come. Incomplete bytes become U+FFFD, as
        often as they begin a character that cannot be."""
        marks = len(self._bytes)
        if not self._table.rules.byte_fallback:
            marks = len(self._bytes.decode(errors="replace"))
        self._bytes = b""
        text, stopped = self._show(REPLACEMENT * marks)
        if stopped or self._stops is None:
            return text
        return text + self._stops.finish()

    def _show(self, text: str) -> tuple[str, bool]:
        """Apply the rule for the start of the text, then the stop strings."""
        while self._strip and text:
            if not text.startswith(self._table.rules.strip):
                self._strip = 0
                break
            text = text[1:]
            self._strip -= 1
        if self._stops is not None:
            return self._stops.feed(text)
        self._busy = self._strip > 0
        return text, False

    def _assemble(self, token_id: int, text: str | None) -> str:
        if text == "":  # a special token: the bytes on both sides of it are neighbours
            return text
        if self._table.rules.byte_fallback:
            return self._join_fallback(self._table.bytes_of(token_id) if text is None else text)
        return self._join(self._table.bytes_of(token_id))

    def _join(self, data: bytes) -> str:
        text, consumed = utf_8_decode(self._bytes + data, "replace", False)
        self._bytes = (self._bytes + data)[consumed:]
        self._open = bool(self._bytes)
        return text

    def _join_fallback(self, token: str | bytes) -> str:
        """Text ends a run of bytes; a byte continues it, and cannot mend it once it is broken."""
        if isinstance(token, str):
            marks = REPLACEMENT * len(self._bytes)
            self._bytes, self._broken, self._open = b"", False, False
            return marks + token
        data = self._bytes + token
        text, consumed = REPLACEMENT * len(data), len(data)
        if not self._broken:
            try:
                text, consumed = utf_8_decode(data, "strict", False)
            except UnicodeDecodeError:
                self._broken = True
        self._bytes = data[consumed:]
        self._open = self._broken or bool(self._bytes)
        return text
