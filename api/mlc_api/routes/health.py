"""GET /health, /ready and /ping: whether the engine takes requests now."""

from __future__ import annotations

from litestar import Response, get, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler

from mlc_api.auth import OPEN
from mlc_api.errors import RETRY_AFTER_SECONDS
from mlc_api.sse import encode_object
from mlc_api.state import Served


def health_routes(served: Served) -> list[HTTPRouteHandler]:
    """The routes over one engine; they ask it no question, so they never wait for it."""

    def state() -> Response[bytes]:
        problem = served.engine.problem
        if problem is None:
            return Response(encode_object({"status": "ok"}), media_type="application/json")
        return Response(
            encode_object({"status": "unavailable", "reason": problem}),
            status_code=503,
            media_type="application/json",
            headers={"retry-after": str(RETRY_AFTER_SECONDS)},
        )

    @get(["/health", "/ready"], opt=OPEN, sync_to_thread=False)
    def health() -> Response[bytes]:
        return state()

    methods = [HttpMethod.GET, HttpMethod.POST]  # SageMaker's name of it; vLLM takes both

    @route("/ping", http_method=methods, status_code=200, opt=OPEN, sync_to_thread=False)
    def ping() -> Response[bytes]:
        return state()

    return [health, ping]
