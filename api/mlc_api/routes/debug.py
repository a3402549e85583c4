"""POST /debug/...: looking into the engine; these routes exist only with --enable-debug.

Bodies are read and ignored: MLC LLM's clients name the model in them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from litestar import Request, Response, post
from litestar.handlers import HTTPRouteHandler
from msgspec.structs import asdict

from mlc_api.routes.body import read_body
from mlc_api.sse import encode_object
from mlc_api.state import Served
from mlc_llm.errors import BadRequest, EngineUnavailable
from mlc_llm.serve.metrics import EngineMetrics

JSON = "application/json"
QUERY_SECONDS = 30.0
T = TypeVar("T")


def debug_routes(served: Served) -> list[HTTPRouteHandler]:
    """The routes over one engine."""
    settings = served.settings

    async def ask(request: Request[Any, Any, Any], question: Callable[[], Awaitable[T]]) -> T:
        await read_body(request, settings.body_seconds)
        try:
            async with asyncio.timeout(QUERY_SECONDS):
                return await question()
        except TimeoutError:
            raise EngineUnavailable("The engine did not answer; see GET /health.") from None

    @post("/debug/dump_event_trace", status_code=200)
    async def dump_event_trace(request: Request[Any, Any, Any]) -> Response[bytes]:
        if not settings.enable_tracing:
            raise BadRequest("Event tracing is off; start the server with --enable-tracing.")
        return Response(await ask(request, served.engine.trace), media_type=JSON)

    @post("/debug/dump_engine_metrics", status_code=200)
    async def dump_engine_metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
        stats = await ask(request, served.engine.stats)
        numbers = {**asdict(stats), **EngineMetrics(stats).metrics}  # ours, and by MLC LLM's names
        return Response(encode_object({"metrics": numbers}), media_type=JSON)

    @post("/debug/reset_engine", status_code=200)
    async def reset_engine(request: Request[Any, Any, Any]) -> Response[bytes]:
        await ask(request, served.engine.reset)
        return Response(b"null", media_type=JSON)

    return [dump_event_trace, dump_engine_metrics, reset_engine]
