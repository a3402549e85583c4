"""GET /docs (also / and /redoc) and /openapi.json: what this server can be asked."""

from __future__ import annotations

from typing import Any

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from mlc_api import openapi
from mlc_api.sse import encode_object
from mlc_api.state import Served


def docs_routes(served: Served) -> list[HTTPRouteHandler]:
    """The routes; the document is made when somebody asks for it."""
    settings = served.settings

    def spec() -> dict[str, Any]:
        return openapi.document(
            debug=settings.enable_debug,
            with_key=bool(settings.api_keys),
            version=settings.version,
        )

    @get("/openapi.json", sync_to_thread=False)
    def openapi_json() -> Response[bytes]:
        return Response(encode_object(spec()), media_type="application/json")

    @get(["/docs", "/redoc", "/"], sync_to_thread=False)
    def docs() -> Response[str]:
        html = openapi.page(spec(), settings.model_id)
        return Response(html, media_type="text/html")

    return [openapi_json, docs]
