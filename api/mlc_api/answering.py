"""One answer, from an accepted request to the last byte.

Opens the engine's stream, waits for the first news (so that early failures are plain HTTP errors),
then sends events as they come or one object at the end. However it ends, the stream is closed
by a plain call without `await`: inside a cancelled scope nothing that waits would be run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

from litestar.types import ASGIApp, HTTPResponseStartEvent, Receive, Scope, Send

from mlc_api.attended import StreamFailed, attended
from mlc_api.errors import error_event
from mlc_api.measures import Measured
from mlc_api.sse import DONE, EventWriter, encode_object
from mlc_api.state import Prepared, Served
from mlc_llm.errors import MLCError
from mlc_llm.serve.answer.delta import Answer
from mlc_llm.serve.answer.fold import Fold
from mlc_llm.serve.answer.news import NewsStream

logger = logging.getLogger("mlc_llm.web")

Endpoint = Literal["chat", "completion"]

WRITERS: dict[Endpoint, Callable[[Answer], EventWriter]] = {
    "chat": EventWriter.chat,
    "completion": EventWriter.completion,
}
FOLDED: dict[Endpoint, Callable[[Fold], Any]] = {"chat": Fold.chat, "completion": Fold.completion}

EVENT_STREAM: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


def head(answer_id: str, length: int | None) -> HTTPResponseStartEvent:
    """The head of an object of so many bytes, or of a stream of events.

    OpenAI's clients know an answer by its `x-request-id` too.
    """
    kind = EVENT_STREAM
    if length is not None:
        kind = ((b"content-type", b"application/json"), (b"content-length", b"%d" % length))
    headers = [*kind, (b"x-request-id", answer_id.encode())]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def answer(served: Served, prepared: Prepared, endpoint: Endpoint) -> ASGIApp:
    """The response to an accepted request."""
    give = _stream if prepared.stream else _whole

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        measured = Measured(
            served.measures, endpoint, n=prepared.answer.num_choices, submits=prepared.submits
        )
        async with attended(measured, receive):
            stream = served.engine.open(prepared.submits)
            try:
                await give(stream, prepared.answer, endpoint, measured, send)
            finally:
                stream.close()

    return respond


async def _whole(
    stream: NewsStream, answer: Answer, endpoint: Endpoint, measured: Measured, send: Send
) -> None:
    fold = Fold(answer)
    async for news in stream:
        measured.news(news.deltas)
        measured.finished(news.finished)
        fold.add(news.deltas, news.finished)
    body = encode_object(FOLDED[endpoint](fold))
    await send(head(answer.id, len(body)))
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _stream(
    stream: NewsStream, answer: Answer, endpoint: Endpoint, measured: Measured, send: Send
) -> None:
    writer = WRITERS[endpoint](answer)
    started = False
    try:
        async for news in stream:
            if not started:
                await send(head(answer.id, None))
                started = True
            measured.news(news.deltas)
            if news.deltas and (data := writer.deltas(news.deltas)):
                await send({"type": "http.response.body", "body": data, "more_body": True})
            if news.finished:
                measured.finished(news.finished)
                for data in writer.finish(news.finished):
                    await send({"type": "http.response.body", "body": data, "more_body": True})
    except Exception as error:
        if not started:
            raise
        if not isinstance(error, MLCError):
            logger.error("an answer failed after it had begun", exc_info=error)
        await send({"type": "http.response.body", "body": error_event(error), "more_body": False})
        raise StreamFailed from error
    await send({"type": "http.response.body", "body": DONE, "more_body": False})
