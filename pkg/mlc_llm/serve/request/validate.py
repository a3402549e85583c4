"""What a request may ask for, and the complete `GenerationConfig` of one that passes.

Pure. Ranges (`protocol.ranges`) are OpenAI's, widened where MLC LLM's clients send more. What this
version cannot do is refused by name, never ignored, unless ignoring it changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from mlc_llm.errors import BadRequest
from mlc_llm.grammar.asked import grammar_of
from mlc_llm.grammar.tags import tokens_of_marks
from mlc_llm.models.folder import GenerationDefaults
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import Ready
from mlc_llm.protocol.ranges import (
    MAX_BIAS,
    MAX_BIASED_TOKENS,
    MAX_INTEGER,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKENS,
    MAX_TOP_LOGPROBS,
    VALUES,
)
from mlc_llm.protocol.requests import (
    ChatCompletionRequest,
    CompletionRequest,
    GenerationFields,
)
from mlc_llm.serve.request.fields import (
    check_text_only,
    check_thinking,
    goes_on,
    num_candidates,
)
from mlc_llm.serve.request.history import check_history
from mlc_llm.serve.request.restrict import Encode, allowed_tokens, bad_words

MAX_STOP_CHARACTERS = 1000

_LENGTHS = ("max_completion_tokens", "max_tokens", "n_predict", "max_new_tokens")
"""Names of the same; the first one that is given counts."""

Value = TypeVar("Value")


def check_chat(request: ChatCompletionRequest) -> None:
    """What only chat requests have. Raises BadRequest."""
    if not request.messages:
        raise BadRequest("`messages` must hold at least one message.", param="messages")
    check_text_only(request)
    check_thinking(request)
    check_history(request.messages)


def generation_config(
    request: ChatCompletionRequest | CompletionRequest,
    defaults: GenerationDefaults,
    ready: Ready,
    *,
    stop_strs: Sequence[str] = (),
    stop_token_ids: Sequence[int] = (),
    special_tokens: Mapping[str, int] | None = None,
    encode: Encode | None = None,
) -> GenerationConfig:
    """Check every field of the request and fill in the ones that are not given.

    `stop_strs` and `stop_token_ids` are the model's own; `ignore_eos` leaves them out. `ready` has
    the limits of the engine. A stop string that names one of the `special_tokens` stops at that
    token, which shows as no text. `encode` is the tokenizer, for `bad_words`. Raises BadRequest
    naming the first field at fault.
    """
    _check_ranges(request)
    _check_seed(request)
    _check_streaming(request)
    ignore_eos = _ignores_eos(request)
    own_stops = () if ignore_eos else tuple(stop_strs)
    own_ends = () if ignore_eos else tuple(stop_token_ids)
    max_tokens = _max_tokens(request, defaults, ready)
    stops = _stop_strings(request)
    named = [special_tokens[stop] for stop in stops if special_tokens and stop in special_tokens]
    wanted = _logprobs(request)
    grammar = grammar_of(request)
    hides = request.skip_special_tokens is True
    return GenerationConfig(
        max_tokens=max_tokens,
        n=num_candidates(request),
        temperature=_given(request.temperature, defaults.temperature),
        top_p=_given(request.top_p, defaults.top_p),
        top_k=_top_k(_given(request.top_k, defaults.top_k), ready),
        min_p=_given(request.min_p, defaults.min_p),
        frequency_penalty=_given(request.frequency_penalty, defaults.frequency_penalty),
        presence_penalty=_given(request.presence_penalty, defaults.presence_penalty),
        repetition_penalty=_given(
            _given(request.repetition_penalty, request.repeat_penalty), defaults.repetition_penalty
        ),
        logit_bias=_logit_bias(request, ready),
        seed=request.seed,
        stop_strs=tuple(dict.fromkeys((*stops, *own_stops))),
        stop_token_ids=tuple(dict.fromkeys((*_stop_tokens(request, ready), *named, *own_ends))),
        ignore_eos=ignore_eos,
        logprobs=wanted is not None or num_candidates(request) > (request.n or 1),
        top_logprobs=wanted or 0,
        min_tokens=_min_tokens(request, max_tokens),
        continues=goes_on(request),
        allowed_token_ids=allowed_tokens(request, ready),
        bad_words=() if encode is None else bad_words(request, ready, encode),
        keep_stop_str=bool(request.include_stop_str_in_output),
        prompt_logprobs=_prompt_logprobs(request, wanted),
        show_special_tokens=request.skip_special_tokens is False,
        grammar=grammar,
        shown_tokens=() if hides else tokens_of_marks(grammar, special_tokens or {}),
    )


def _check_ranges(request: GenerationFields) -> None:
    for field, (_, allowed) in VALUES.items():
        value = getattr(request, field)
        if allowed is not None and value is not None and value not in allowed:
            raise BadRequest(f"`{field}` must be {allowed}.", param=field)
    allowed = VALUES["repetition_penalty"].complete
    if request.repeat_penalty is not None and request.repeat_penalty not in allowed:
        raise BadRequest(f"`repeat_penalty` must be {allowed}.", param="repeat_penalty")
    if request.use_beam_search:
        reason = "`use_beam_search` is not supported here; send `n` or `best_of`."
        raise BadRequest(reason, param="use_beam_search")


def _check_seed(request: GenerationFields) -> None:
    if request.seed is not None and not -MAX_INTEGER - 1 <= request.seed <= MAX_INTEGER:
        raise BadRequest("`seed` must be an integer of 64 bits.", param="seed")


def _check_streaming(request: GenerationFields) -> None:
    if request.stream_options is not None and not request.stream:
        reason = "`stream_options` may only be given together with `stream`: true."
        raise BadRequest(reason, param="stream_options")


def _ignores_eos(request: GenerationFields) -> bool:
    debug = request.debug_config
    if debug is not None and debug.special_request is not None:
        raise BadRequest(
            "`debug_config.special_request` is not supported here; see GET /metrics, or "
            "`engine.metrics()` in Python.",
            param="debug_config.special_request",
        )
    return bool(request.ignore_eos or (debug is not None and debug.ignore_eos))


def _max_tokens(
    request: ChatCompletionRequest | CompletionRequest,
    defaults: GenerationDefaults,
    ready: Ready,
) -> int:
    """Never more than the context holds, so that no number is too large for the engine.

    -1 is no bound, as llama.cpp's clients and others write it.
    """
    field = next((name for name in _LENGTHS if getattr(request, name, None) is not None), None)
    if field is None:
        return -1 if defaults.max_tokens is None else defaults.max_tokens
    value: int = getattr(request, field)
    if value == -1 and field != "max_completion_tokens":
        return -1
    least = 0 if isinstance(request, CompletionRequest) and request.echo else 1
    if not least <= value <= MAX_INTEGER:
        raise BadRequest(
            f"`{field}` must be at least {least} and an integer of 64 bits.", param=field
        )
    return min(value, ready.max_single_sequence_length)


def _min_tokens(request: GenerationFields, max_tokens: int) -> int:
    least = request.min_tokens or 0
    if max_tokens >= 0 and least > max_tokens:
        reason = f"`min_tokens` must be at most `max_tokens`, which is {max_tokens} here."
        raise BadRequest(reason, param="min_tokens")
    return least


def _top_k(top_k: int, ready: Ready) -> int:
    """0 and -1 both mean no limit, as does everything from the whole vocabulary on."""
    return -1 if top_k <= 0 or top_k >= ready.vocab_size else top_k


def _logprobs(request: GenerationFields) -> int | None:
    """How many alternatives to report with each token; None: no log-probabilities at all."""
    if request.logprobs is None or request.logprobs is False:
        if request.top_logprobs:
            reason = "`top_logprobs` may only be given together with `logprobs`."
            raise BadRequest(reason, param="top_logprobs")
        return None
    if request.logprobs is True:
        return request.top_logprobs or 0
    if not 0 <= request.logprobs <= MAX_TOP_LOGPROBS:
        reason = f"`logprobs` must be at least 0 and at most {MAX_TOP_LOGPROBS}."
        raise BadRequest(reason, param="logprobs")
    return max(request.logprobs, request.top_logprobs or 0)


def _prompt_logprobs(request: GenerationFields, wanted: int | None) -> int | None:
    """Alternatives to report with each token of the prompt; None: the prompt is not reported.

    `wanted` are those of the answer's tokens, which an echo puts after the prompt's.
    """
    echoed = wanted if isinstance(request, CompletionRequest) and request.echo else None
    asked = request.prompt_logprobs
    if asked is not None and request.stream:
        reason = "`prompt_logprobs` cannot be streamed; use `echo` with `logprobs` instead."
        raise BadRequest(reason, param="prompt_logprobs")
    return max((k for k in (asked, echoed) if k is not None), default=None)


def _logit_bias(request: GenerationFields, ready: Ready) -> dict[int, float]:
    bias = request.logit_bias or {}
    if len(bias) > MAX_BIASED_TOKENS:
        reason = f"`logit_bias` must have at most {MAX_BIASED_TOKENS} entries."
        raise BadRequest(reason, param="logit_bias")
    for token, value in bias.items():
        check_token(token, ready, "logit_bias")
        if not -MAX_BIAS <= value <= MAX_BIAS:
            reason = f"`logit_bias` must be from -{MAX_BIAS} to {MAX_BIAS}."
            raise BadRequest(reason, param="logit_bias")
    return bias


def _stop_strings(request: GenerationFields) -> Sequence[str]:
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stops) > MAX_STOP_STRINGS:
        raise BadRequest(f"`stop` must have at most {MAX_STOP_STRINGS} strings.", param="stop")
    if not all(0 < len(stop) <= MAX_STOP_CHARACTERS for stop in stops):
        reason = f"Every string of `stop` must have 1 to {MAX_STOP_CHARACTERS} characters."
        raise BadRequest(reason, param="stop")
    if any("\ud800" <= character <= "\udfff" for stop in stops for character in stop):
        raise BadRequest("`stop` holds a lone surrogate; send valid text.", param="stop")
    return stops


def _stop_tokens(request: GenerationFields, ready: Ready) -> Sequence[int]:
    tokens = request.stop_token_ids or []
    if len(tokens) > MAX_STOP_TOKENS:
        reason = f"`stop_token_ids` must have at most {MAX_STOP_TOKENS} entries."
        raise BadRequest(reason, param="stop_token_ids")
    for token in tokens:
        check_token(token, ready, "stop_token_ids")
    return tokens


def check_token(token: int, ready: Ready, param: str) -> None:
    """Raises BadRequest when the id is outside what the engine's logits cover."""
    if not 0 <= token < ready.vocab_size:
        raise BadRequest(
            f"`{param}` names the token {token}; token ids are 0 to {ready.vocab_size - 1}.",
            param=param,
        )


def _given(value: Value | None, default: Value) -> Value:
    return default if value is None else value
