"""What is still to be said to one client: one frame per step, merged while the client does not
read.

Merging adds what belongs together, so what waits here is never more than the requests' own content:
one entry per choice, however many steps pass, or per so many tokens that are told one by one. What
has waited goes in several frames where one would become too large for the channel.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from mlc_llm.protocol.messages import (
    Delta,
    Failed,
    Finished,
    FromEngine,
    Reply,
    StepOutput,
)

MOST_TOLD = 4096
"""Tokens with log-probabilities, of answers or prompts, in one frame of news that has waited."""

Send = Callable[[FromEngine], bool]
"""Puts a message on the channel; False: no room now."""


class Outbox:
    """News for one client. Everything put here is sent exactly once, in order per request."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.deltas: list[Delta] = []
        self.finished: list[Finished] = []
        self.failed: list[Failed] = []
        self._replies: list[Reply] = []
        self._is_behind = False
        """Whether the news of more than one step may be here."""

    @property
    def is_empty(self) -> bool:
        return not (self.deltas or self.finished or self.failed or self._replies)

    @property
    def num_replies(self) -> int:
        """Answers that wait for room; a client with many of them is not listened to."""
        return len(self._replies)

    def reply(self, query_id: int, body: bytes) -> None:
        """Answer a query, after all news that came before the answer."""
        self._replies.append(Reply(query_id, body))

    def publish(self) -> bool:
        """Send what there is; False: there is no room, and all of it is kept."""
        if self._is_behind:
            self.deltas = merged(self.deltas)
        while self.deltas or self.finished or self.failed:
            count = _fitting(self.deltas) if self._is_behind else len(self.deltas)
            if not self._publish(count):
                self._is_behind = True
                return False
        self._is_behind = False
        while self._replies:
            if not self._send(self._replies[0]):
                return False
            del self._replies[0]
        return True

    def _publish(self, count: int) -> bool:
        """Send the first `count` deltas in one frame, with the last of them all ends."""
        if count < len(self.deltas):
            if not self._send(StepOutput(self.deltas[:count])):
                return False
            del self.deltas[:count]
            return True
        if not self._send(StepOutput(self.deltas, self.finished, self.failed)):
            return False
        self.deltas, self.finished, self.failed = [], [], []
        return True


def merged(deltas: list[Delta]) -> list[Delta]:
    """One delta per choice: texts and logprobs joined, up to `MOST_TOLD`, tokens added.

    Nothing is added to a delta that ends its choice: what follows it is of a later request with the
    same name.
    """
    at: dict[tuple[str, int], int] = {}
    out: list[Delta] = []
    for delta in deltas:
        key = (delta.request_id, delta.index)
        i = at.get(key)
        if i is None or _num_told(out[i]) + _num_told(delta) > MOST_TOLD:
            at[key] = len(out)
            out.append(delta)
        else:
            out[i] = _joined(out[i], delta)
        if delta.finish_reason is not None:
            del at[key]
    return out


def _num_told(delta: Delta) -> int:
    return len(delta.logprobs) + len(delta.prompt)


def _fitting(deltas: list[Delta]) -> int:
    """How many of the first ones go into one frame, at least one."""
    told = itertools.accumulate(map(_num_told, deltas))
    return max(1, sum(itertools.takewhile(bool, (num <= MOST_TOLD for num in told))))


def _joined(first: Delta, second: Delta) -> Delta:
    return Delta(
        first.request_id,
        first.index,
        first.text + second.text,
        first.num_tokens + second.num_tokens,
        second.finish_reason,
        first.logprobs + second.logprobs,
        first.prompt + second.prompt,
    )
