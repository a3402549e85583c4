"""POST /score: likelihoods of texts, also under /v1."""

from __future__ import annotations

from typing import Any

from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from mlc_api.gathering import gathered
from mlc_api.routes.body import read_body
from mlc_api.state import Served
from mlc_api.text_tools import TextTools
from mlc_llm.serve.text_tools import scores


def score_route(served: Served, tools: TextTools) -> HTTPRouteHandler:
    """The route over one served model."""

    @post(["/score", "/v1/score"], status_code=200)
    async def score(request: Request[Any, Any, Any]) -> ASGIApp:
        scoring = await tools.score(await read_body(request, served.settings.body_seconds))
        return gathered(
            served,
            scoring.submits,
            "score",
            lambda deltas, finished: scores(scoring, deltas, finished),
        )

    return score
