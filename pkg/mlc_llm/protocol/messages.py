"""Every value that crosses the border between a client process and the engine process.

Two closed unions, `ToEngine` and `FromEngine`. A request is named by the client that submits it;
its life on the wire is one `Submit`, any number of `Delta`s and exactly one `Finished` or `Failed`.
All that one engine step has to say to one client travels in one `StepOutput` frame.
"""

from __future__ import annotations

from enum import IntEnum

from msgspec import Struct

from mlc_llm.protocol.generation import GenerationConfig

PROTOCOL_VERSION = 1


class FinishReason(IntEnum):
    """Why a choice ended."""

    STOP = 0
    LENGTH = 1
    ABORT = 2
    ERROR = 3


class Submit(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """Client -> engine: generate from this prompt."""

    request_id: str
    prompt: bytes
    """Token ids, little-endian int32; never empty."""
    generation: GenerationConfig
    arrival: float = 0.0
    """time.time() at which the client got the request; for latencies and the trace."""


class Abort(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """Client -> engine, in the lane read before all else. Idempotent; legal in every phase."""

    request_id: str
    after: int = 0
    """Commands that were sent up to the request's own; `mlc_llm.ipc.channel` obeys it."""


class Query(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """Client -> engine: answer with one `Reply` of the same `query_id`."""

    query_id: int
    what: str
    """Either "stats" (answered with a `Stats` as JSON), "trace" (Chrome trace events as JSON) or
    "reset" (abort all requests, drop all caches)."""


class Shutdown(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """Client -> engine: end the process; `drain` lets running requests finish first."""

    drain: bool = False


ToEngine = Submit | Abort | Query | Shutdown


class TokenLogprob(Struct, frozen=True, array_like=True, gc=False):
    """One generated token with log-probabilities of the raw distribution (natural log)."""

    token: bytes
    """The bytes the token stands for."""
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()
    """The most likely tokens at this position, best first."""


class PromptToken(Struct, frozen=True, array_like=True, gc=False):
    """One token of the prompt, and how likely it was after the tokens before it."""

    token_id: int
    token: bytes
    logprob: float | None
    """Of the raw distribution, natural; None for the first token, which follows nothing."""
    rank: int
    """1 for the most likely token; 0 for the first of the prompt."""
    top: tuple[tuple[int, bytes, float], ...] = ()
    """The most likely tokens at this position as (id, bytes, log-probability), best first."""


class Delta(Struct, frozen=True, array_like=True, gc=False):
    """What one step added to one choice."""

    request_id: str
    index: int
    """Which of the n choices."""
    text: str
    """Never half a character, never part of a stop string; may be empty."""
    num_tokens: int
    """Tokens generated for this choice in this step, whether or not their text is out yet."""
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt: tuple[PromptToken, ...] = ()
    """The next tokens of the prompt, before all text; told once, with choice 0."""


class Finished(Struct, frozen=True, array_like=True, gc=False):
    """All choices of the request have ended."""

    request_id: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    queue_s: float = 0.0
    """Seconds between arrival in the engine and the first step."""
    prefill_s: float = 0.0
    """Seconds between the first step and the first token."""
    decode_s: float = 0.0
    """Seconds between the first token and the last."""
    vector: bytes = b""
    """What pooling made of the prompt, float32 little-endian; not normalised."""


class Failed(Struct, frozen=True, array_like=True, gc=False):
    """The request ended without an answer."""

    request_id: str
    kind: str
    """A name in `errors.WIRE_ERRORS`."""
    message: str
    param: str | None = None
    """The field of the request at fault."""


class StepOutput(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """Engine -> client: all news of one step, for all requests of that client."""

    deltas: list[Delta] = []
    finished: list[Finished] = []
    failed: list[Failed] = []


class Progress(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """Engine -> client during start-up: what it is doing, for people to read."""

    stage: str
    """"compile", "load", "decide" ..."""
    message: str
    fraction: float | None = None
    """Between 0 and 1 for work with a known end."""


class Ready(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """Engine -> client: start-up is over, these are the limits."""

    protocol_version: int
    pid: int
    vocab_size: int
    """Width of the logits that may be sampled."""
    max_num_sequence: int
    max_total_sequence_length: int
    """Tokens that the KV cache holds."""
    max_single_sequence_length: int
    """Most tokens of one sequence, prompt and output; never more than the KV cache holds."""
    prefill_chunk_size: int
    decisions: tuple[str, ...] = ()
    """One sentence per decision: device, CPU level, threads, memory, with its reason."""


class StartFailed(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """Engine -> client: start-up ended; the process exits with code 1."""

    kind: str
    """A name in `errors.WIRE_ERRORS`."""
    message: str


class Reply(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """Engine -> client: the answer to a `Query`."""

    query_id: int
    body: bytes
    """JSON."""


FromEngine = StepOutput | Progress | Ready | StartFailed | Reply


class Stats(Struct, frozen=True, kw_only=True, gc=False):
    """The engine's counters and gauges, as JSON inside `Reply`."""

    num_running: int = 0
    num_waiting: int = 0
    kv_pages_total: int = 0
    kv_pages_free: int = 0
    """Pages that a new sequence can have, those included whose content is merely kept."""
    kv_pages_cached: int = 0
    """Pages whose content the prefix cache knows, in use or not."""
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    """Prompt tokens of requests that have begun whose keys and values were in the prefix cache."""
    matched_tokens_total: int = 0
    """Prompt tokens of requests that have begun, found or not."""
    generation_tokens_total: int = 0
    prefill_tokens_total: int = 0
    """Tokens really computed by prefill, recomputation after preemption included."""
    requests_finished: dict[str, int] = {}
    """By finish reason: "stop", "length", "abort", "error"."""
    num_preemptions: int = 0
    num_steps: int = 0
    step_seconds_total: float = 0.0
    plan_settle_seconds_total: float = 0.0
    step_tokens: list[int] = []
    """Steps by how many tokens they computed, in the buckets `mlc_llm.metrics.registry.STEP_TOKENS`
    and above; empty from an engine that does not count them."""
    step_tokens_total: int = 0
