"""One object made of all that the engine says to some requests; nothing of it is streamed.

The requests are given up when the client goes away, by a plain call without `await`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from litestar.types import ASGIApp, Receive, Scope, Send

from mlc_api.attended import attended
from mlc_api.measures import Measured
from mlc_api.sse import encode_object
from mlc_api.state import Served
from mlc_llm.protocol.messages import Delta, Finished, Submit
from mlc_llm.protocol.responses import Object

Make = Callable[[list[Delta], list[Finished]], Object]

WAVE = 256
"""Requests that are open at a time, so that one call does not fill the engine's queue."""


def gathered(served: Served, submits: Sequence[Submit], endpoint: str, make: Make) -> ASGIApp:
    """The response that `make` makes of all news of `submits`."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        measured = Measured(served.measures, endpoint, n=1)
        async with attended(measured, receive):
            body = encode_object(await _gather(served, submits, measured, make))
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body, "more_body": False})

    return respond


async def _gather(
    served: Served, submits: Sequence[Submit], measured: Measured, make: Make
) -> Object:
    deltas: list[Delta] = []
    finished: list[Finished] = []
    for start in range(0, len(submits), WAVE):
        stream = served.engine.open(submits[start : start + WAVE])
        try:
            async for news in stream:
                deltas += news.deltas
                finished += news.finished
                measured.finished(news.finished)
        finally:
            stream.close()
    return make(deltas, finished)
