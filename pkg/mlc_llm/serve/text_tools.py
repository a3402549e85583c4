"""What a served model can be asked without generating: tokens, texts, prompts, likelihoods."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterable, Sequence

from msgspec import Struct

from mlc_llm.conversation_template.jinja import special_tokens
from mlc_llm.errors import BadRequest, EngineUnavailable
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import Delta, Finished, Ready, Submit
from mlc_llm.protocol.requests import ChatCompletionRequest
from mlc_llm.protocol.text_tools import (
    DetokenizeRequest,
    DetokenizeResponse,
    Score,
    ScoreRequest,
    ScoreResponse,
    TemplateResponse,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
)
from mlc_llm.serve.answer.delta import usage_of
from mlc_llm.serve.answer.prompt_logprobs import PromptReadings
from mlc_llm.serve.request.prepare import (
    MAX_PROMPTS,
    MAX_READINGS,
    ServedModel,
    chat_ids,
    chat_pieces,
    check_fit,
)
from mlc_llm.serve.request.validate import check_token
from mlc_llm.tokenizers.tokenizer import check_text

MAX_TOKENS = 1 << 17
"""Of a text that is only tokenized, or of tokens that are only written as text, at least."""


async def tokenize(request: TokenizeRequest, model: ServedModel, ready: Ready) -> TokenizeResponse:
    """The tokens of a text. Raises BadRequest."""
    model.check_name(request.model)
    text = request.prompt if request.prompt is not None else request.content
    if text is None:
        raise BadRequest("`prompt` or `messages` is required.", param="prompt")
    check_text(text, max(MAX_TOKENS, ready.max_single_sequence_length), "prompt")
    ids = await model.tokenizer.encode_off_loop(text)
    begin = model.tokenizer.bos_token_id
    add = request.add_special_tokens
    if add is None:
        add = request.add_special if request.add_special is not None else request.content is None
    if add and begin is not None and ids[:1] != [begin]:
        ids = [begin, *ids]
    return _tokenized(ids, request, model, ready)


async def tokenize_chat(
    request: TokenizeRequest, chat: ChatCompletionRequest, model: ServedModel, ready: Ready
) -> TokenizeResponse:
    """The tokens of the prompt that a chat request would have. Raises BadRequest."""
    model.check_name(request.model)
    return _tokenized(await chat_ids(chat, model, ready), request, model, ready)


def _tokenized(
    ids: list[int], request: TokenizeRequest, model: ServedModel, ready: Ready
) -> TokenizeResponse:
    named = bool(request.return_token_strs or request.with_pieces)
    return TokenizeResponse(
        count=len(ids),
        max_model_len=ready.max_single_sequence_length,
        tokens=ids,
        token_strs=[model.tokenizer.name_of(i) for i in ids] if named else None,
    )


async def detokenize(
    request: DetokenizeRequest, model: ServedModel, ready: Ready
) -> DetokenizeResponse:
    """The text of tokens, special ones by name. Raises BadRequest."""
    model.check_name(request.model)
    ids = request.tokens
    if len(ids) > max(MAX_TOKENS, ready.max_single_sequence_length):
        raise BadRequest("`tokens` are too many; send fewer at a time.", param="tokens")
    if ids:
        check_token(min(ids), ready, "tokens")
        check_token(max(ids), ready, "tokens")
    text = await asyncio.to_thread(model.tokenizer.decode, ids)
    return DetokenizeResponse(prompt=text, content=text)


def tokenizer_info(model: ServedModel, ready: Ready) -> TokenizerInfo:
    """What is known of the tokenizer; tokens that it does not name are named by their ids."""
    folder, tokenizer = model.folder, model.tokenizer
    named = special_tokens(folder.tokenizer_config)
    ids = {"bos_token": folder.bos_token_id, "eos_token": next(iter(folder.eos_token_ids), None)}
    for name, token_id in ids.items():
        if token_id is not None:
            named.setdefault(name, tokenizer.name_of(token_id))
    kind = folder.tokenizer_config.get("tokenizer_class")
    return TokenizerInfo(
        tokenizer_class=kind if isinstance(kind, str) else None,
        model_max_length=ready.max_single_sequence_length,
        bos_token=named.get("bos_token"),
        eos_token=named.get("eos_token"),
        pad_token=named.get("pad_token"),
        unk_token=named.get("unk_token"),
        chat_template=folder.chat_template,
    )


async def apply_template(
    request: ChatCompletionRequest, model: ServedModel, ready: Ready
) -> TemplateResponse:
    """The prompt of a chat request as text. Raises BadRequest."""
    model.check_name(request.model)
    pieces = await chat_pieces(request, model, ready)
    texts = [model.tokenizer.name_of(p) if isinstance(p, int) else p for p in pieces]
    return TemplateResponse(prompt="".join(texts))


def _num_common(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens that both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


class Scoring(Struct, frozen=True):
    """A score request that has passed every check: what to ask, and what to look at."""

    id: str
    model: str
    created: int
    submits: tuple[Submit, ...]
    """One per continuation, in order."""
    starts: tuple[int, ...]
    """Where the continuation begins in the tokens of each."""


async def prepare_score(
    request: ScoreRequest, model: ServedModel, ready: Ready, request_id: str
) -> Scoring:
    """Raises BadRequest, ModelNotFound or PromptTooLong."""
    model.check_name(request.model)
    submits, starts, num_tokens = [], [], 0
    now = time.time()
    for index, (beginning, continuation) in enumerate(_pairs(request)):
        start, ids = await _joined(beginning, continuation, model, ready)
        generation = GenerationConfig(max_tokens=0, prompt_logprobs=0)
        prompt = struct.pack(f"<{len(ids)}i", *ids)
        submits.append(Submit(f"{request_id}-{index}", prompt, generation, now))
        starts.append(start)
        num_tokens += len(ids)
        if num_tokens > MAX_READINGS:
            reason = f"The texts have more than {MAX_READINGS} tokens; send fewer at a time."
            raise BadRequest(reason, param="text_2")
    return Scoring(request_id, request.model or model.name, int(now), tuple(submits), tuple(starts))


def _pairs(request: ScoreRequest) -> list[tuple[str, str]]:
    first = [request.text_1] if isinstance(request.text_1, str) else request.text_1
    second = [request.text_2] if isinstance(request.text_2, str) else request.text_2
    if not 1 <= len(second) <= MAX_PROMPTS:
        reason = f"`text_2` must be 1 to {MAX_PROMPTS} texts."
        raise BadRequest(reason, param="text_2")
    if len(first) == 1:
        first = first * len(second)
    if len(first) != len(second):
        reason = "`text_1` must be one text, or as many as `text_2`."
        raise BadRequest(reason, param="text_1")
    return list(zip(first, second, strict=True))


async def _joined(
    beginning: str, continuation: str, model: ServedModel, ready: Ready
) -> tuple[int, Sequence[int]]:
    """Where the continuation starts in the tokens of both texts together, and these tokens.

    Blanks at the end of the beginning count as the continuation's, as tokens begin with them.
    """
    stripped = beginning.rstrip()
    continuation = beginning[len(stripped) :] + continuation
    check_text(stripped, ready.max_single_sequence_length, "text_1")
    check_text(continuation, ready.max_single_sequence_length, "text_2")
    begin = model.tokenizer.bos_token_id
    first = await model.tokenizer.encode_off_loop(stripped) if stripped else []
    ids = await model.tokenizer.encode_off_loop(stripped + continuation)
    if begin is not None and ids[:1] != [begin]:
        first, ids = [begin, *first], [begin, *ids]
    check_fit(ids, ready, "text_2")
    # tokens of the beginning that join with the continuation's belong to it
    start = max(1, _num_common(first, ids))
    if start >= len(ids):
        reason = "Every text of `text_2` must have a token after that of `text_1`."
        raise BadRequest(reason, param="text_2")
    return start, ids


def scores(
    scoring: Scoring, deltas: Iterable[Delta], finished: Sequence[Finished]
) -> ScoreResponse:
    """The response, of all that the engine said. Raises EngineUnavailable for half of it."""
    readings = PromptReadings()
    for delta in deltas:
        readings.add(delta)
    data = []
    for index, (submit, start) in enumerate(zip(scoring.submits, scoring.starts, strict=True)):
        read = readings.of(submit.request_id)
        if 4 * len(read) != len(submit.prompt):
            raise EngineUnavailable("The texts were not read to their end; send them again.")
        tokens = read[start:]
        data.append(
            Score(
                index=index,
                object="score",
                score=sum(token.logprob or 0.0 for token in tokens),
                num_tokens=len(tokens),
                is_greedy=all(token.rank == 1 for token in tokens),
            )
        )
    return ScoreResponse(
        id=scoring.id,
        object="list",
        created=scoring.created,
        model=scoring.model,
        data=data,
        usage=usage_of(finished, with_extra=False),
    )
