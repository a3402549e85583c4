"""From a request of the Responses API to what the engine is asked."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from mlc_llm.protocol.messages import Ready
from mlc_llm.protocol.requests import ChatMessage
from mlc_llm.protocol.responses_api import ResponseObject, ResponsesRequest
from mlc_llm.serve.request.prepare import Prepared, ServedModel, prepare_chat
from mlc_llm.serve.responses.input import (
    chat_request,
    check_supported,
    messages_of,
    named_as_here,
)
from mlc_llm.serve.responses.output import begun
from mlc_llm.serve.responses.store import ResponseStore


class Asked(Struct, frozen=True):
    """A request that has passed every check."""

    prepared: Prepared
    response: ResponseObject
    """As it is before the first word."""
    messages: tuple[ChatMessage, ...]
    """The conversation so far, without instructions."""


async def prepare_response(
    request: ResponsesRequest,
    model: ServedModel,
    ready: Ready,
    store: ResponseStore,
    response_id: str,
) -> Asked:
    """Raises BadRequest, ResponseNotFound, ModelNotFound or PromptTooLong; changes nothing."""
    check_supported(request)
    history: tuple[ChatMessage, ...] = ()
    if request.previous_response_id is not None:
        history = store.get(request.previous_response_id, "previous_response_id").messages
    messages, places = messages_of(request)
    chat = chat_request(request, history, messages)
    before = ["instructions"] if request.instructions else []
    before += ["previous_response_id"] * len(history)
    with named_as_here([*before, *places]):
        prepared = await prepare_chat(chat, model, ready, response_id)
    reading = prepared.answer.reading
    if reading is not None:  # this API has one form of arguments
        answer = replace(prepared.answer, reading=replace(reading, arguments="string"))
        prepared = replace(prepared, answer=answer)
    response = begun(request, prepared.answer, prepared.submits[0].generation)
    return Asked(prepared, response, (*history, *messages))
