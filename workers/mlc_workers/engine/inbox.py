"""One client of the engine: its channel, its requests, and what it asks for, checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from msgspec import Struct

from mlc_llm.errors import BadRequest, MLCError
from mlc_llm.ipc.heartbeat import HeartbeatWriter
from mlc_llm.ipc.wakeup import Wakeup
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import FromEngine, Submit, ToEngine
from mlc_workers.engine.outbox import Outbox
from mlc_workers.request import Request, RequestKey

MAX_WAITING_REPLIES = 16


class End(Protocol):
    """The engine's end of a channel (see `mlc_llm.ipc.channel.EngineEnd`)."""

    @property
    def heartbeat(self) -> HeartbeatWriter: ...
    @property
    def wakeup(self) -> Wakeup: ...
    def recv(self) -> list[ToEngine]: ...
    def send(self, message: FromEngine) -> bool: ...
    def flush(self) -> bool: ...
    def close(self) -> None: ...


class Client:
    """Who is at the other end of a channel."""

    def __init__(self, number: int, end: End) -> None:
        self.number = number
        self.end = end
        self.outbox = Outbox(end.send)
        self.live: dict[str, Request] = {}
        self.is_leaving = False
        """Whether it asked for the end; it gets no new requests in."""

    def recv(self) -> list[ToEngine]:
        """What it wants, in order. A client that lets answers pile up is not listened to."""
        if self.outbox.num_replies >= MAX_WAITING_REPLIES:
            self.end.flush()
            return []
        return self.end.recv()

    @property
    def is_gone(self) -> bool:
        """Whether it left and has been told everything."""
        return self.is_leaving and not self.live and self.outbox.is_empty and self.end.flush()


class Checks(Struct, frozen=True):
    """What the engine knows that a prompt and its settings must obey."""

    vocab_size: int
    eos_token_ids: frozenset[int]
    sampling: Callable[[GenerationConfig], str | None]


def read_submit(
    submit: Submit, client: Client, checks: Checks, *, serial: int, received: float
) -> Request | MLCError:
    """A request that the scheduler may take, or what is wrong with it."""
    generation = submit.generation
    if len(submit.prompt) % 4 or not submit.prompt:
        return BadRequest("the prompt is empty; send at least one token", param="prompt")
    prompt = np.frombuffer(submit.prompt, "<i4")
    if prompt.min() < 0 or prompt.max() >= checks.vocab_size:
        return BadRequest(
            f"the prompt has a token id outside 0 .. {checks.vocab_size - 1}; "
            "use the tokenizer of this model",
            param="prompt",
        )
    error = checks.sampling(generation)
    if error is not None:
        return BadRequest(error)
    stops = frozenset(generation.stop_token_ids)
    if generation.ignore_eos:
        stops -= checks.eos_token_ids
    return Request(
        RequestKey(client.number, submit.request_id),
        prompt.tolist(),
        generation,
        serial=serial,
        received=received,
        stop_token_ids=stops,
    )
