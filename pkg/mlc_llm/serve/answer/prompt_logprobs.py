"""What the engine says of prompts, token by token, in the two forms that clients know.

OpenAI's completions with `echo` and `logprobs` put the prompt's tokens before the generated ones;
`prompt_logprobs` has a list of its own. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from mlc_llm.protocol.messages import Delta, PromptToken, TokenLogprob
from mlc_llm.protocol.responses import CompletionLogProbs, PromptLogprob, PromptLogprobs
from mlc_llm.serve.answer.text_offsets import TextOffsets, num_characters, token_text


class PromptReadings:
    """The tokens of every prompt of one answer, as far as they were told."""

    def __init__(self) -> None:
        self._tokens: dict[str, list[PromptToken]] = {}

    def add(self, delta: Delta) -> None:
        """Take in what a delta says of its prompt."""
        if delta.prompt:
            self._tokens.setdefault(delta.request_id, []).extend(delta.prompt)

    def of(self, request_id: str) -> list[PromptToken]:
        """The prompt of this engine request; empty when nobody asked for it."""
        return self._tokens.get(request_id, [])


def begin_offsets(prompt: Iterable[PromptToken], echo: str) -> TextOffsets:
    """Offsets for the prompt's tokens and all after them.

    They are counted from the end of the echo: a first token that does not show in it, or a blank
    that it lost, moves none of the others.
    """
    return TextOffsets(len(echo) - sum(num_characters(token.token) for token in prompt))


def completion_logprobs(
    prompt: Iterable[PromptToken], tokens: Iterable[TokenLogprob], offsets: TextOffsets
) -> CompletionLogProbs:
    """OpenAI's form for completions; moves `offsets` on.

    The token itself is among its alternatives, as with OpenAI; the first token of a prompt has
    neither a log-probability nor alternatives.
    """
    shown = CompletionLogProbs(text_offset=[], token_logprobs=[], tokens=[], top_logprobs=[])
    for read in prompt:
        top = [(raw, logprob) for _, raw, logprob in read.top]
        _add(shown, read.token, read.logprob, top, offsets)
    for token in tokens:
        _add(shown, token.token, token.logprob, token.top, offsets)
    return shown


def _add(
    shown: CompletionLogProbs,
    token: bytes,
    logprob: float | None,
    top: Iterable[tuple[bytes, float]],
    offsets: TextOffsets,
) -> None:
    text = token_text(token)
    shown.text_offset.append(offsets.next(token))
    shown.tokens.append(text)
    shown.token_logprobs.append(logprob)
    if logprob is None:
        shown.top_logprobs.append(None)
        return
    alternatives: dict[str, float] = {}
    for other, value in top:
        alternatives.setdefault(token_text(other), value)  # of equal texts the likelier
    alternatives.setdefault(text, logprob)
    shown.top_logprobs.append(alternatives)


def prompt_logprobs(prompt: Iterable[PromptToken]) -> PromptLogprobs:
    """vLLM's form: for each token but the first, its alternatives and itself by token id."""
    return [_alternatives(token) if token.logprob is not None else None for token in prompt]


def _alternatives(token: PromptToken) -> dict[str, PromptLogprob]:
    assert token.logprob is not None
    found = {str(token.token_id): _entry(token.token, token.logprob, token.rank)}
    for rank, (other, raw, logprob) in enumerate(token.top, 1):
        found.setdefault(str(other), _entry(raw, logprob, rank))
    return found


def _entry(token: bytes, logprob: float, rank: int) -> PromptLogprob:
    return PromptLogprob(logprob=logprob, rank=rank, decoded_token=token_text(token))
