"""GET /metrics: Prometheus text."""

from __future__ import annotations

import asyncio

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from mlc_api.state import Served
from mlc_llm.errors import EngineUnavailable
from mlc_llm.metrics.prometheus import CONTENT_TYPE, render

STATS_SECONDS = 2.0
"""How long the engine may take to answer before its last known numbers are shown."""


def metrics_route(served: Served) -> HTTPRouteHandler:
    """The route; an engine that does not answer never keeps a scraper waiting."""
    measures = served.measures

    @get("/metrics")
    async def metrics() -> Response[str]:
        up = served.engine.problem is None
        measures.engine_up.set(to=float(up))
        if up:
            try:
                async with asyncio.timeout(STATS_SECONDS):
                    measures.take(await served.engine.stats())
            except (EngineUnavailable, TimeoutError):
                measures.engine_up.set(to=0.0)
        return Response(render(measures.registry), headers={"content-type": CONTENT_TYPE})

    return metrics
