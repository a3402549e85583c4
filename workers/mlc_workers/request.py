"""A request inside the engine, its choices, and the phases they move through.

Everything that affects transitions is in `NEXT`. This file knows no page pool, no schedule and no
device.

A request with n choices prefills its prompt once, as choice 0. The logits after the prompt are
sampled n times, and the other choices start as forks of the first one's KV. From then on each
choice is scheduled on its own.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import FinishReason
from mlc_workers.cache.tables import Sequence


class Phase(Enum):
    """Where a choice is in its life."""

    HELD = "held"
    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    FINISHED = "finished"


NEXT: dict[Phase, frozenset[Phase]] = {
    # In no queue: the grammar of its answer is not ready yet.
    Phase.HELD: frozenset({Phase.WAITING, Phase.FINISHED}),
    # A fork goes straight to DECODE: the KV of its prompt is there already.
    Phase.WAITING: frozenset({Phase.PREFILL, Phase.DECODE, Phase.FINISHED}),
    # Back to WAITING is preemption: KV is dropped and computed again later.
    Phase.PREFILL: frozenset({Phase.DECODE, Phase.WAITING, Phase.FINISHED}),
    Phase.DECODE: frozenset({Phase.WAITING, Phase.FINISHED}),
    Phase.FINISHED: frozenset(),
}


class InvalidTransition(AssertionError):
    """A bug in the engine: a choice was moved where `NEXT` has no way."""


class RequestKey(Struct, frozen=True, gc=False):
    """Clients name their requests without knowing of each other."""

    client: int
    request_id: str


class TextFeed(Protocol):
    """Turns tokens into text that is safe to show (see `mlc_llm.tokenizers`)."""

    def feed(self, token_id: int) -> tuple[str, bool]:
        """The text that this token makes certain, and whether a stop string was met."""
        ...

    def finish(self) -> str:
        """What was held back and is now certain."""
        ...


class Pooled(Protocol):
    """Hidden states of a prompt on their way to one vector (see `mlc_workers.engine.pooling`)."""

    def vector(self) -> bytes:
        """The vector, float32 little-endian."""
        ...


class GrammarTooComplex(Exception):
    """What comes next by a grammar takes more work to find out than one answer may cost."""


class Guide(Protocol):
    """Which tokens may come next, by a grammar (see `mlc_workers.guided`)."""

    @property
    def num_words(self) -> int:
        """Words of the bitmask."""
        ...

    def fill(self, words: NDArray[np.uint32]) -> None:
        """Set bit i % 32 of word i // 32 for every token i that may come next, and no other.

        May be called in another thread than `accept`, never at the same time. Raises
        GrammarTooComplex.
        """
        ...

    def accept(self, token_id: int) -> bool:
        """This token was taken; True: the text is complete, nothing may follow. Raises
        GrammarTooComplex, and EngineFault for a token that may not come.
        """
        ...

    def forced(self) -> list[int]:
        """The tokens that come next, in order, as far as each is the only one that may come."""
        ...


class Timing:
    """When things happened, in seconds of one monotonic clock; 0.0: not yet."""

    __slots__ = ("first_step", "first_token", "last_token", "received")

    def __init__(self, received: float) -> None:
        self.received = received
        self.first_step = 0.0
        self.first_token = 0.0
        self.last_token = 0.0


class Choice:
    """One of the n continuations of a request: the unit of scheduling.

    `tokens` are the prompt and what was generated. In DECODE all but the last have their KV in
    `sequence`, and those before it that a grammar forced; in PREFILL some have; in WAITING there is
    no sequence. `limit` is the number of
    tokens at which it ends with `length`.
    """

    __slots__ = (
        "guide",
        "index",
        "limit",
        "num_reserved_rows",
        "phase",
        "request",
        "sampler",
        "sequence",
        "text",
        "tokens",
    )

    def __init__(self, request: Request, index: int, tokens: list[int]) -> None:
        self.request = request
        self.index = index
        self.tokens = tokens
        self.phase = Phase.WAITING
        self.sequence: Sequence | None = None
        self.limit = 0
        self.num_reserved_rows = 0
        """Rows kept free for the forks of this choice while its prompt is prefilled."""
        self.sampler: object = None
        self.text: TextFeed | None = None
        self.guide: Guide | None = None
        """None: any token may come next."""

    def move(self, phase: Phase) -> None:
        """The only way to change the phase."""
        if phase not in NEXT[self.phase]:
            raise InvalidTransition(f"{self!r} cannot move to {phase.name}")
        self.phase = phase

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.request.num_prompt_tokens

    @property
    def age(self) -> tuple[int, int]:
        """Order of arrival; smaller is older."""
        return (self.request.serial, self.index)

    def __repr__(self) -> str:
        return f"<choice {self.index} of {self.request.key.request_id}, {self.phase.name}>"


class Request:
    """What was asked for, and what has become of it."""

    __slots__ = (
        "choices",
        "finish_reasons",
        "generation",
        "is_forked",
        "is_started",
        "key",
        "num_cached_tokens",
        "num_prompt_tokens",
        "num_read",
        "pooled",
        "read_until",
        "serial",
        "stop_token_ids",
        "timing",
    )

    def __init__(
        self,
        key: RequestKey,
        prompt: list[int],
        generation: GenerationConfig,
        *,
        serial: int = 0,
        received: float = 0.0,
        stop_token_ids: frozenset[int] = frozenset(),
    ) -> None:
        self.key = key
        self.generation = generation
        self.serial = serial
        """Order of arrival in the engine, over all clients."""
        self.num_prompt_tokens = len(prompt)
        self.num_cached_tokens = 0
        self.read_until = _read_until(len(prompt), generation)
        """Tokens from the start of the prompt whose results are wanted for themselves ..."""
        self.num_read = len(prompt) - 1 if generation.pooling == "last" else 0
        """... and how many of them have been handed out, or are not wanted after all."""
        self.pooled: Pooled | None = None
        """What was made of hidden states so far."""
        self.is_started = False
        """Whether it has ever left the queue."""
        self.is_forked = False
        """Whether the prompt is done and every choice goes its own way."""
        self.stop_token_ids = stop_token_ids
        self.timing = Timing(received)
        self.choices = [Choice(self, 0, prompt)]
        self.choices += [Choice(self, i, []) for i in range(1, generation.n)]
        self.finish_reasons: list[FinishReason | None] = [None] * generation.n

    def hold(self) -> None:
        """Keep a new request out of the queue until `release`."""
        for choice in self.choices:
            choice.phase = Phase.HELD

    def release(self, serial: int) -> None:
        """It may be queued, as if it had come now."""
        self.serial = serial
        for choice in self.choices:
            choice.move(Phase.WAITING)

    @property
    def num_completion_tokens(self) -> int:
        return sum(choice.num_generated for choice in self.choices if choice.tokens)

    @property
    def is_finished(self) -> bool:
        return all(choice.phase is Phase.FINISHED for choice in self.choices)


def _read_until(num_tokens: int, generation: GenerationConfig) -> int:
    """Nothing follows the last token that could be likely, but it has a hidden state."""
    if generation.pooling is not None:
        return num_tokens
    return 0 if generation.prompt_logprobs is None else num_tokens - 1
