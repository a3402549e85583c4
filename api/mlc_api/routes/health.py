"""GET /health and /ready: whether the engine takes requests now."""

from __future__ import annotations

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from mlc_api.auth import OPEN
from mlc_api.errors import RETRY_AFTER_SECONDS
from mlc_api.sse import encode_object
from mlc_api.state import Served


def health_route(served: Served) -> HTTPRouteHandler:
    """The route over one engine; it asks no question, so it never waits for the engine."""

    @get(["/health", "/ready"], opt=OPEN, sync_to_thread=False)
    def health() -> Response[bytes]:
        problem = served.engine.problem
        if problem is None:
            return Response(encode_object({"status": "ok"}), media_type="application/json")
        return Response(
            encode_object({"status": "unavailable", "reason": problem}),
            status_code=503,
            media_type="application/json",
            headers={"retry-after": str(RETRY_AFTER_SECONDS)},
        )

    return health
