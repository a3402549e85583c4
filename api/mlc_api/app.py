"""The web application: routes, errors, the API key and CORS, put together. Starts nothing."""

from __future__ import annotations

from typing import Any

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.enums import HttpMethod
from litestar.types import ASGIApp, Receive, Send

from mlc_api.auth import require_key
from mlc_api.bodies import BodyBudget
from mlc_api.errors import HANDLERS
from mlc_api.routes.chat import chat_route
from mlc_api.routes.completions import completion_route
from mlc_api.routes.debug import debug_routes
from mlc_api.routes.docs import docs_routes
from mlc_api.routes.embeddings import embedding_route
from mlc_api.routes.health import health_routes
from mlc_api.routes.metrics import metrics_route
from mlc_api.routes.models import model_routes
from mlc_api.routes.responses import response_routes
from mlc_api.routes.score import score_route
from mlc_api.routes.text_tools import text_tool_routes
from mlc_api.routes.version import version_route
from mlc_api.settings import CorsSettings
from mlc_api.state import Served


def make_app(served: Served) -> ASGIApp:
    """The application over one served model."""
    settings = served.settings
    routes = [
        chat_route(served),
        completion_route(served),
        *model_routes(served),
        *health_routes(served),
        version_route(served),
        metrics_route(served),
        *docs_routes(served),
    ]
    if served.tools is not None:
        routes += [
            *text_tool_routes(served, served.tools),
            score_route(served, served.tools),
            embedding_route(served, served.tools),
            *response_routes(served, served.tools),
        ]
    if settings.enable_debug:
        routes += debug_routes(served)
    app = Litestar(
        route_handlers=routes,
        guards=[require_key(settings.api_keys)] if settings.api_keys else [],
        exception_handlers=HANDLERS,
        cors_config=_cors(settings.cors),
        request_max_body_size=settings.max_body_bytes,
        openapi_config=None,  # written by hand in routes.docs: the handlers take raw bodies
        logging_config=None,
    )
    return BodyBudget(
        _answer_head(app),
        max_bytes=settings.max_bodies_bytes,
        max_body_bytes=settings.max_body_bytes,
    )


def _answer_head(app: ASGIApp) -> ASGIApp:
    """HEAD is GET without the body, which the server leaves out."""

    async def answer(scope: Any, receive: Receive, send: Send) -> None:
        if scope.get("method") == HttpMethod.HEAD:
            scope = {**scope, "method": HttpMethod.GET}
        await app(scope, receive, send)

    return answer


def _cors(cors: CorsSettings) -> CORSConfig:
    return CORSConfig(
        allow_origins=list(cors.allow_origins),
        allow_methods=list(cors.allow_methods),  # type: ignore[arg-type]
        allow_headers=list(cors.allow_headers),
        allow_credentials=cors.allow_credentials,
    )
