"""GET /version."""

from __future__ import annotations

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from mlc_api.sse import encode_object
from mlc_api.state import Served
from mlc_llm.protocol.text_tools import VersionResponse


def version_route(served: Served) -> HTTPRouteHandler:
    """The route; it asks nobody."""

    @get("/version", sync_to_thread=False)
    def version() -> Response[bytes]:
        found = VersionResponse(version=served.settings.version)
        return Response(encode_object(found), media_type="application/json")

    return version
