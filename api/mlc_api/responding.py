"""One answer of the Responses API, from an accepted request to the last byte.

As `mlc_api.answering`: early failures are plain HTTP errors, later ones end the stream with an
event, and however it ends the engine's stream is closed by a plain call without `await`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from litestar.types import ASGIApp, Receive, Scope, Send

from mlc_api.answering import head
from mlc_api.attended import StreamFailed, attended
from mlc_api.measures import Measured
from mlc_api.sse import encode_object, event
from mlc_api.state import Served
from mlc_llm.errors import MLCError
from mlc_llm.protocol.responses_api import ResponseObject, StreamEvent
from mlc_llm.serve.answer.fold import Fold
from mlc_llm.serve.answer.news import NewsStream
from mlc_llm.serve.responses.input import named_as_here
from mlc_llm.serve.responses.output import ended, said
from mlc_llm.serve.responses.prepare import Asked
from mlc_llm.serve.responses.store import ResponseStore, Stored
from mlc_llm.serve.responses.stream import ResponseStream

logger = logging.getLogger("mlc_llm.web")


def respond_to(served: Served, asked: Asked, store: ResponseStore) -> ASGIApp:
    """The response to an accepted request, kept in `store` if it is to be."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        measured = Measured(served.measures, "responses", n=1, submits=asked.prepared.submits)
        async with attended(measured, receive):
            stream = served.engine.open(asked.prepared.submits)
            try:
                give = _stream if asked.prepared.stream else _whole
                with named_as_here():
                    response = await give(stream, asked, measured, send)
            finally:
                stream.close()
            _keep(store, asked, response)

    return respond


def _keep(store: ResponseStore, asked: Asked, response: ResponseObject) -> None:
    if response.store:
        store.put(Stored(response, (*asked.messages, *said(response))))


async def _whole(
    stream: NewsStream, asked: Asked, measured: Measured, send: Send
) -> ResponseObject:
    fold = Fold(asked.prepared.answer)
    async for news in stream:
        measured.news(news.deltas)
        measured.finished(news.finished)
        fold.add(news.deltas, news.finished)
    response = ended(asked.response, fold.chat(), int(time.time()))
    body = encode_object(response)
    await send(head(response.id, len(body)))
    await send({"type": "http.response.body", "body": body, "more_body": False})
    return response


async def _stream(
    stream: NewsStream, asked: Asked, measured: Measured, send: Send
) -> ResponseObject:
    source = ResponseStream(asked.response, asked.prepared.answer)
    started = False
    try:
        async for news in stream:
            events: list[StreamEvent] = []
            if not started:
                await send(head(asked.response.id, None))
                started = True
                events += source.begin()
            measured.news(news.deltas)
            measured.finished(news.finished)
            events += source.add(news.deltas, news.finished)
            if events:
                await _send(send, events)
        last = source.end(int(time.time()))
    except Exception as error:
        if not started:
            raise
        if not isinstance(error, MLCError):
            logger.error("a response failed after it had begun", exc_info=error)
        await _send(send, source.fail(error), more=False)
        raise StreamFailed from error
    await _send(send, last, more=False)
    return source.response


async def _send(send: Send, events: Sequence[StreamEvent], *, more: bool = True) -> None:
    """Each event names its type, also outside of its JSON."""
    body = b"".join(b"event: " + e.type.encode() + b"\n" + event(e) for e in events)
    await send({"type": "http.response.body", "body": body, "more_body": more})
