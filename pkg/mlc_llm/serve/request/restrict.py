"""Which tokens a request forbids: `allowed_token_ids` and `bad_words`, checked, as token ids.

Pure. A word may be written in several ways by the same tokenizer; it is forbidden as it stands
alone and as it stands after a space.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.messages import Ready
from mlc_llm.protocol.ranges import MAX_BAD_WORDS
from mlc_llm.protocol.sampling_fields import SamplingFields
from mlc_llm.tokenizers.tokenizer import check_text

MAX_BAD_WORD_CHARACTERS = 1000
MAX_BAD_WORD_TOKENS = 1024
"""Of all words together."""

Encode = Callable[[str], list[int]]


def allowed_tokens(request: SamplingFields, ready: Ready) -> bytes:
    """The only tokens that may be sampled, sorted, as little-endian int32; empty: all.

    Raises BadRequest.
    """
    asked = request.allowed_token_ids
    if asked is None:
        return b""
    if not asked:
        reason = "`allowed_token_ids` must hold at least one token; leave it out to allow all."
        raise BadRequest(reason, param="allowed_token_ids")
    worst = min(asked) if min(asked) < 0 else max(asked)
    if not 0 <= worst < ready.vocab_size:
        raise BadRequest(
            f"`allowed_token_ids` names the token {worst}; token ids are 0 to "
            f"{ready.vocab_size - 1}.",
            param="allowed_token_ids",
        )
    allowed = sorted(set(asked))
    return struct.pack(f"<{len(allowed)}i", *allowed)


def bad_words(request: SamplingFields, ready: Ready, encode: Encode) -> tuple[tuple[int, ...], ...]:
    """The forbidden sequences of tokens. Raises BadRequest."""
    words = request.bad_words or []
    if len(words) > MAX_BAD_WORDS:
        raise BadRequest(f"`bad_words` must be at most {MAX_BAD_WORDS} texts.", param="bad_words")
    if not all(0 < len(word.strip()) <= len(word) <= MAX_BAD_WORD_CHARACTERS for word in words):
        reason = f"Every text of `bad_words` must have 1 to {MAX_BAD_WORD_CHARACTERS} characters."
        raise BadRequest(reason, param="bad_words")
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        check_text(word, MAX_BAD_WORD_CHARACTERS, "bad_words")
        for form in (word, " " + word.lstrip()):
            found[tuple(encode(form))] = None
    found.pop((), None)
    if sum(map(len, found)) > MAX_BAD_WORD_TOKENS:
        reason = f"`bad_words` must have at most {MAX_BAD_WORD_TOKENS} tokens together."
        raise BadRequest(reason, param="bad_words")
    # a word with a token that the model does not have cannot be generated
    return tuple(word for word in found if max(word) < ready.vocab_size)
