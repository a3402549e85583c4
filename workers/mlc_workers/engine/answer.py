"""From a sampled token to what the client is told: text, stop checks, and the end of a request."""

from __future__ import annotations

from collections.abc import Callable

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.messages import (
    Delta,
    Failed,
    Finished,
    FinishReason,
    PromptToken,
    TokenLogprob,
)
from mlc_workers.request import Choice, GrammarTooComplex, Request
from mlc_workers.sampling.prompt import Likelihood
from mlc_workers.sampling.sampler import Pick

BytesOf = Callable[[int], bytes]
"""The bytes that a token id stands for."""


def extend(choice: Choice, pick: Pick, bytes_of: BytesOf) -> Delta:
    """What `pick`, already appended to the choice, adds to its answer.

    An end token shows as no text; what was held back for a stop string or a character comes out
    with the last delta.
    """
    request = choice.request
    text = choice.text
    assert text is not None
    token = pick.token_id
    reason: FinishReason | None = None
    complete = choice.guide is not None and choice.guide.accept(token)
    if token in request.stop_token_ids and choice.num_generated > request.generation.min_tokens:
        return Delta(request.key.request_id, choice.index, text.finish(), 1, FinishReason.STOP)
    shown, stopped = text.feed(token)
    if stopped:
        reason = FinishReason.STOP
    elif complete or len(choice.tokens) >= choice.limit:
        reason = FinishReason.STOP if complete else FinishReason.LENGTH
        shown += text.finish()
    logprobs = (_logprob(pick, bytes_of),) if request.generation.logprobs else ()
    return Delta(request.key.request_id, choice.index, shown, 1, reason, logprobs)


def follow(choice: Choice, observe: Callable[[int], None], bytes_of: BytesOf) -> Delta | None:
    """What a grammar forces after the latest token, appended to the choice; None: nothing.

    `observe` hears of each token. Not for answers with log-probabilities: those of a token are
    known when the tokens before it are computed.
    """
    if choice.guide is None or choice.request.generation.logprobs:
        return None
    told: list[Delta] = []
    for token in choice.guide.forced():
        choice.tokens.append(token)
        observe(token)
        told.append(extend(choice, Pick(token), bytes_of))
        if told[-1].finish_reason is not None:
            break
    if not told:
        return None
    text = "".join(delta.text for delta in told)
    request_id, reason = choice.request.key.request_id, told[-1].finish_reason
    return Delta(request_id, choice.index, text, len(told), reason)


def cut(choice: Choice, reason: FinishReason) -> Delta:
    """The last words of a choice that ends without another token."""
    rest = choice.text.finish() if choice.text is not None else ""
    return Delta(choice.request.key.request_id, choice.index, rest, 0, reason)


def account(request: Request) -> Finished:
    """The sums, once every choice has ended."""
    times = request.timing
    first_step = times.first_step or times.received
    first_token = times.first_token or first_step
    return Finished(
        request.key.request_id,
        prompt_tokens=request.num_prompt_tokens,
        completion_tokens=request.num_completion_tokens,
        cached_tokens=request.num_cached_tokens,
        queue_s=first_step - times.received,
        prefill_s=first_token - first_step,
        decode_s=max(0.0, times.last_token - first_token),
        vector=request.pooled.vector() if request.pooled is not None else b"",
    )


def failure(request_id: str, error: Exception) -> Failed:
    """What the client is told when there is no answer."""
    message = getattr(error, "message", str(error))
    return Failed(request_id, type(error).__name__, message, getattr(error, "param", None))


def too_complex(request: Request, error: GrammarTooComplex) -> BadRequest:
    """What the client is told when its grammar cannot be followed to the end."""
    grammar = request.generation.grammar
    param = None if grammar is None else grammar.param
    message = f"`{param}` is too complex to follow to the end: {error}; simplify it."
    return BadRequest(message, param=param)


def prompt_token(token_id: int, found: Likelihood, bytes_of: BytesOf) -> PromptToken:
    """One token of a prompt as the client is told of it."""
    top = tuple((other, bytes_of(other), logprob) for other, logprob in found.top)
    return PromptToken(token_id, bytes_of(token_id), found.logprob, found.rank, top)


def _logprob(pick: Pick, bytes_of: BytesOf) -> TokenLogprob:
    return TokenLogprob(
        bytes_of(pick.token_id),
        pick.logprob,
        tuple((bytes_of(token_id), logprob) for token_id, logprob in pick.top),
    )
