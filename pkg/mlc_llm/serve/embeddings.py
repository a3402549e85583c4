"""From an embedding request to what the engine is asked, and from its vectors to the response."""

from __future__ import annotations

import asyncio
import math
import struct
import time
from array import array
from base64 import b64encode
from collections.abc import Iterable

from msgspec import Struct

from mlc_llm.errors import BadRequest, EngineUnavailable, PromptTooLong
from mlc_llm.models.folder import ModelFolder
from mlc_llm.models.mlc import Pooling
from mlc_llm.protocol.embeddings import (
    Embedding,
    EmbeddingRequest,
    EmbeddingResponse,
    EmbeddingUsage,
)
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import Finished, Ready, Submit
from mlc_llm.serve.request.fields import truncated
from mlc_llm.serve.request.prepare import ServedModel, check_fit, prompts_of
from mlc_llm.serve.request.validate import check_token
from mlc_llm.tokenizers.tokenizer import check_text

MAX_INPUTS = 2048


class Embeddings(Struct, frozen=True):
    """An embedding request that has passed every check."""

    model: str
    submits: tuple[Submit, ...]
    """One per input, in order."""
    dimensions: int | None
    normalize: bool
    base64: bool


async def prepare_embeddings(
    request: EmbeddingRequest, model: ServedModel, ready: Ready, request_id: str
) -> Embeddings:
    """Raises BadRequest, ModelNotFound or PromptTooLong."""
    model.check_name(request.model)
    size = model.folder.architecture.hidden_size
    if request.dimensions is not None and not 1 <= request.dimensions <= size:
        reason = f"`dimensions` must be 1 to {size}, the size of this model's vectors."
        raise BadRequest(reason, param="dimensions")
    if request.encoding_format not in (None, "float", "base64"):
        reason = '`encoding_format` must be "float" or "base64".'
        raise BadRequest(reason, param="encoding_format")
    generation = GenerationConfig(max_tokens=0, pooling=_pooling(request, model.folder))
    now = time.time()
    submits = []
    for index, each in enumerate(prompts_of(request.input, "input", MAX_INPUTS)):
        ids = await _ids(each, request, model, ready)
        prompt = struct.pack(f"<{len(ids)}i", *ids)
        submits.append(Submit(f"{request_id}-{index}", prompt, generation, now))
    return Embeddings(
        request.model or model.name,
        tuple(submits),
        request.dimensions,
        request.normalize is not False,
        request.encoding_format == "base64",
    )


def _pooling(request: EmbeddingRequest, folder: ModelFolder) -> Pooling:
    match request.pooling:
        case None:
            return folder.pooling
        case "last" | "mean" | "cls":
            return request.pooling
        case _:
            raise BadRequest('`pooling` must be "last", "mean" or "cls".', param="pooling")


async def _ids(
    each: str | list[int], request: EmbeddingRequest, model: ServedModel, ready: Ready
) -> list[int]:
    if not each:
        raise BadRequest("`input` must not have an empty text.", param="input")
    if isinstance(each, str):
        check_text(each, ready.max_single_sequence_length, "input")
        encode = model.tokenizer.encode_whole
        if request.add_special_tokens is False:
            encode = model.tokenizer.encode
        ids = await asyncio.to_thread(encode, each)
    else:
        ids = each
        check_token(min(ids), ready, "input")
        check_token(max(ids), ready, "input")
    room = ready.max_single_sequence_length - 1
    ids = list(truncated(ids, request.truncate_prompt_tokens, room))
    if len(ids) > room:
        raise PromptTooLong(
            f"This model's maximum context length is {room} tokens; an input has {len(ids)}, so "
            "shorten it or set `truncate_prompt_tokens`.",
            param="input",
        )
    check_fit(ids, ready, "input")
    return ids


def embedded(embeddings: Embeddings, finished: Iterable[Finished]) -> EmbeddingResponse:
    """The response. Raises EngineUnavailable when the engine gave up before all were done."""
    ends = {end.request_id: end for end in finished}
    data = []
    for index, submit in enumerate(embeddings.submits):
        end = ends.get(submit.request_id)
        if end is None or not end.vector:
            raise EngineUnavailable("The inputs were not read to their end; send them again.")
        data.append(Embedding(object="embedding", index=index, embedding=_shown(embeddings, end)))
    tokens = sum(end.prompt_tokens for end in ends.values())
    return EmbeddingResponse(
        object="list",
        data=data,
        model=embeddings.model,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


def _shown(embeddings: Embeddings, end: Finished) -> list[float] | str:
    """Cut first, then made of length 1: a part of a vector is a vector."""
    vector = array("f", end.vector)[: embeddings.dimensions]
    if embeddings.normalize:
        length = math.sqrt(sum(number * number for number in vector)) or 1.0
        vector = array("f", [number / length for number in vector])
    if embeddings.base64:
        return b64encode(vector.tobytes()).decode()
    return vector.tolist()
