"""POST /v1/completions."""

from __future__ import annotations

from typing import Any

from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from mlc_api.answering import answer
from mlc_api.routes.body import read_body
from mlc_api.state import Served


def completion_route(served: Served) -> HTTPRouteHandler:
    """The route over one served model."""

    @post(["/v1/completions", "/completions"], status_code=200)
    async def completions(request: Request[Any, Any, Any]) -> ASGIApp:
        body = await read_body(request, served.settings.body_seconds)
        return answer(served, await served.preparer.completion(body), "completion")

    return completions
