"""How much of a prompt may share a step with streams that decode, from what steps cost so far.

Where prompts are in a step, multiplications bound it: it takes about `n` times what a stream adds
and `c` times what a token of a prompt adds. A step that only decodes may be bound by the reading of
weights in place of that, so what those take is kept by number of streams. Knows no clock: it is
told seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlc_llm.compiler.abi import TILE_ROWS

STRETCH = 1.8
"""How long a step with prompts in it may take, in steps that only decode for all who are here. What
they see is a pause between tokens: this keeps pauses within twice the usual."""

LEAST = 8
"""Tokens of prompts that join in any case. So few cost hardly more than reading the weights does,
and say little of what a token costs."""

_STREAM_TOKENS = 2.0
"""Tokens of prompts that a stream costs, where no step of several was seen: beside them it has
logits."""

_DOWN, _UP, _MOST = 0.3, 0.05, 2.0
"""How far an estimate moves towards a step that took less, or more; at most `_MOST` times more
counts. What disturbs a step only makes it longer, so it is the short ones that tell."""


class Pace:
    """Estimates of one engine's steps, in seconds."""

    def __init__(self, decode_s: Mapping[int, float], token_s: float) -> None:
        """What steps took that decoded, by number of streams, 1 among them; and one of a prompt for
        each token. All > 0."""
        self._decode = dict(decode_s)
        self._token = token_s
        most = max(decode_s)
        self._stream = decode_s[most] / most if most > 1 else _STREAM_TOKENS * token_s

    def decode_s(self, num_streams: int) -> float:
        """A step that decodes one token for each of so many streams, at least 1."""
        known = self._decode.get(num_streams)
        if known is not None:
            return known
        guess = self.mixed_s(num_streams, 0)
        least = max(s for n, s in self._decode.items() if n < num_streams)
        most = min((s for n, s in self._decode.items() if n > num_streams), default=guess)
        return max(least, min(guess, most))

    def mixed_s(self, num_streams: int, num_tokens: int) -> float:
        """A step with so many tokens of prompts, and streams or none."""
        return num_streams * self._stream + num_tokens * self._token

    def prompt_tokens(self, num_streams: int, num_expected: int) -> int:
        """Tokens of prompts that may join `num_streams` streams, at least 1, when `num_expected`
        will decode soon.
        """
        room = STRETCH * self.decode_s(max(num_streams, num_expected))
        tokens = (room - self.mixed_s(num_streams, 0)) / self._token
        return max(LEAST, int(tokens))

    def learn(self, num_streams: int, num_tokens: int, seconds: float) -> None:
        """A step took so long. An error of a mixed one is shared out in proportion."""
        if seconds <= 0.0:
            return
        if not num_tokens:
            known = self.decode_s(num_streams)
            self._decode[num_streams] = known * _factor(seconds, known)
        elif num_tokens >= LEAST:
            factor = _factor(seconds, self.mixed_s(num_streams, num_tokens))
            self._token *= factor
            if num_streams:
                self._stream *= factor


def whole_tiles(num_streams: int, num_tokens: int) -> int:
    """About so many tokens of prompts, such that a step's rows fill their tiles.

    The first row of a tile costs most of what a whole tile does. Not fewer than `LEAST`.
    """
    num_rows = (num_streams + num_tokens + 1) // TILE_ROWS * TILE_ROWS
    return num_rows - num_streams if num_rows - num_streams >= LEAST else num_tokens


def _factor(seconds: float, estimate: float) -> float:
    error = min(seconds / estimate, _MOST) - 1.0
    return 1.0 + (_UP if error > 0.0 else _DOWN) * error
