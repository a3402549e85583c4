"""POST /v1/embeddings."""

from __future__ import annotations

from typing import Any

from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from mlc_api.gathering import gathered
from mlc_api.routes.body import read_body
from mlc_api.state import Served
from mlc_api.text_tools import TextTools
from mlc_llm.serve.embeddings import embedded


def embedding_route(served: Served, tools: TextTools) -> HTTPRouteHandler:
    """The route over one served model."""

    @post(["/v1/embeddings", "/embeddings"], status_code=200)
    async def embeddings(request: Request[Any, Any, Any]) -> ASGIApp:
        body = await read_body(request, served.settings.body_seconds)
        asked = await tools.embeddings(body)
        return gathered(
            served, asked.submits, "embeddings", lambda _deltas, ends: embedded(asked, ends)
        )

    return embeddings
