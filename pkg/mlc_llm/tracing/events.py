"""Names of what can happen to a request: MLC LLM's, so that its users' tools find them."""

from __future__ import annotations

from enum import Enum


class Event(Enum):
    """An instant or a duration in the life of a request."""

    RECEIVE_REQUEST = "receive request"
    INVOKE_GENERATE = "invoke generate"
    TOKENIZATION = "tokenization"
    REQUEST_ADDED = "request added to engine"
    PREFILL = "prefill"
    DECODE = "decode"
    SAMPLING = "sampling"
    DETOKENIZATION = "detokenization"
    CALLBACK = "callback"
    YIELD_DELTA = "yield delta output"
    SKIP_EMPTY_DELTA = "skip empty delta text"
    YIELD_USAGE = "yield final usage"
    PREEMPT = "preempt"
    ABORT = "abort"
    FINISH = "finish"
    ERROR = "error"
    # Of the whole batch, not of one request:
    PLAN = "plan"
    RUN = "run"
    SETTLE = "settle"


ENGINE = "engine"
"""Stands where the request id is, for events of the whole batch."""
