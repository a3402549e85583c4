"""News of a request as server-sent events, in bytes.

The events are `serve.chunks`'s chunks. All but the text of a middle chunk is known when the request
is known, so it is encoded once, and such an event is three pieces joined; first chunks, last ones
and those with log-probabilities are built and encoded whole. Knows no socket, clock or engine.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from mlc_llm.protocol.messages import Delta, Finished
from mlc_llm.serve.answer.chunks import ChatChunks, Chunks, CompletionChunks
from mlc_llm.serve.answer.delta import Answer

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode

# str.splitlines, and with it many a reader of event streams, takes these for line ends; in JSON
# they occur inside strings only, where an escape says the same.
_LINE_ENDS = tuple((end.encode(), b"\\u%04x" % ord(end)) for end in "\u0085\u2028\u2029")


def escape_line_ends(encoded: bytes) -> bytes:
    """JSON without any character that a line reader could cut at."""
    for raw, escaped in _LINE_ENDS:
        if raw in encoded:
            encoded = encoded.replace(raw, escaped)
    return encoded


def encode_text(text: str) -> bytes:
    """`text` as a JSON string without line ends."""
    encoded = _encode(text)
    return encoded if text.isascii() else escape_line_ends(encoded)


def encode_object(value: Any) -> bytes:
    """A response object as JSON."""
    return _encode(value)


def event(value: Any) -> bytes:
    """One event that holds `value` as JSON."""
    return b"data: " + escape_line_ends(_encode(value)) + b"\n\n"


class _Frame(NamedTuple):
    """An event of a choice's middle, around its text."""

    before: bytes
    after: bytes


class EventWriter:
    """Writes the events of one answer: `deltas` for what a step added, `finish` for its ends."""

    def __init__(self, answer: Answer, chunks: type[Chunks[Any]]) -> None:
        self._chunks = chunks(answer)
        self._frames = _frames(answer, chunks)
        self._open_frames: dict[tuple[str, int], _Frame] = {}  # of choices that have begun

    @classmethod
    def chat(cls, answer: Answer) -> EventWriter:
        """For /v1/chat/completions."""
        return cls(answer, ChatChunks)

    @classmethod
    def completion(cls, answer: Answer) -> EventWriter:
        """For /v1/completions."""
        return cls(answer, CompletionChunks)

    def deltas(self, deltas: Sequence[Delta]) -> bytes:
        """One event per delta that shows something; b"" when none does."""
        if len(deltas) == 1:
            return self._delta(deltas[0])
        return b"".join([self._delta(delta) for delta in deltas])

    def finish(self, finished: Sequence[Finished]) -> list[bytes]:
        """The events that the end of these requests makes: choices given up, the usage."""
        return [event(chunk) for chunk in self._chunks.add((), finished)]

    @property
    def done(self) -> bool:
        """Whether every request of the answer has ended."""
        return self._chunks.done

    def _delta(self, delta: Delta) -> bytes:
        frame = self._open_frames.get((delta.request_id, delta.index))
        if frame is None or delta.finish_reason is not None or delta.logprobs:
            return self._whole(delta)
        text = delta.text
        return frame[0] + encode_text(text) + frame[1] if text else b""

    def _whole(self, delta: Delta) -> bytes:
        chunks = self._chunks.add((delta,))
        if chunks and self._frames:
            choice = (delta.request_id, delta.index)
            self._open_frames[choice] = self._frames[choice]
        return b"".join([event(chunk) for chunk in chunks])


def _frames(answer: Answer, chunks: type[Chunks[Any]]) -> dict[tuple[str, int], _Frame]:
    """Cuts the events of a sample at its text, so that they cannot differ from real chunks.

    None for an answer that is read for thoughts and calls: its chunks are not one text each.
    """
    if answer.reading is not None:
        return {}
    sample = chunks(answer)
    marker = secrets.token_hex(16)
    quoted = _encode(marker)
    frames = {}
    for request_id in answer.request_ids:
        for index in range(answer.n):
            sample.add((Delta(request_id, index, "first", 1),))
            (chunk,) = sample.add((Delta(request_id, index, marker, 1),))
            before, _, after = event(chunk).partition(quoted)
            frames[request_id, index] = _Frame(before, after)
    return frames
