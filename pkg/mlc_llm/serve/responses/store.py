"""Responses that may be asked for again or gone on from, in memory and bounded.

The oldest are forgotten first. Belongs to one event loop.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec
from msgspec import Struct

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.requests import ChatMessage
from mlc_llm.protocol.responses_api import ResponseObject

MAX_RESPONSES = 1024
MAX_BYTES = 64 << 20


class ResponseNotFound(BadRequest):
    """No stored response has this id."""

    status_code = 404
    code = "response_not_found"


class Stored(Struct, frozen=True):
    """A response and the conversation that it ends."""

    response: ResponseObject
    messages: tuple[ChatMessage, ...]
    """Without instructions, which are for one response alone."""


class ResponseStore:
    """At most `max_responses` of together at most `max_bytes` of JSON."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, tuple[Stored, int]] = OrderedDict()
        self._num_bytes = 0

    def put(self, stored: Stored) -> None:
        """Keep a response; one that is larger than all that is allowed is not kept."""
        size = len(msgspec.json.encode(stored))
        if size > self._max_bytes:
            return
        self._kept[stored.response.id] = (stored, size)
        self._num_bytes += size
        while len(self._kept) > self._max_responses or self._num_bytes > self._max_bytes:
            _, (_, freed) = self._kept.popitem(last=False)
            self._num_bytes -= freed

    def get(self, response_id: str, param: str = "response_id") -> Stored:
        """Raises ResponseNotFound naming `param`."""
        kept = self._kept.get(response_id)
        if kept is None:
            raise ResponseNotFound(
                f"No response `{response_id[:100]}` is stored here; the newest "
                f"{self._max_responses} are.",
                param=param,
            )
        return kept[0]

    def delete(self, response_id: str) -> None:
        """Forget a response. Raises ResponseNotFound."""
        self.get(response_id)
        _, freed = self._kept.pop(response_id)
        self._num_bytes -= freed

    def __len__(self) -> int:
        return len(self._kept)
