"""POST /v1/responses, and GET and DELETE of those that are stored."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from litestar import Request, Response, post, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from mlc_api.responding import respond_to
from mlc_api.routes.body import read_body
from mlc_api.sse import encode_object
from mlc_api.state import Served
from mlc_api.text_tools import TextTools
from mlc_llm.protocol.responses_api import DeletedResponse
from mlc_llm.serve.responses.store import ResponseStore

JSON = "application/json"


def response_routes(served: Served, tools: TextTools) -> list[HTTPRouteHandler]:
    """The routes over one served model and the responses that it stored."""
    store = ResponseStore()

    @post(["/v1/responses", "/responses"], status_code=200)
    async def create_response(request: Request[Any, Any, Any]) -> ASGIApp:
        body = await read_body(request, served.settings.body_seconds)
        asked = await tools.respond(body, store, f"resp_{uuid4().hex}")
        return respond_to(served, asked, store)

    @route(
        ["/v1/responses/{response_id:str}", "/responses/{response_id:str}"],
        http_method=[HttpMethod.GET, HttpMethod.DELETE],  # one handler, so that OPTIONS has both
        status_code=200,
        sync_to_thread=False,
    )
    def stored_response(request: Request[Any, Any, Any]) -> Response[bytes]:
        response_id = request.path_params["response_id"]
        if request.method == HttpMethod.DELETE:
            store.delete(response_id)
            gone = DeletedResponse(id=response_id, object="response", deleted=True)
            return Response(encode_object(gone), media_type=JSON)
        return Response(encode_object(store.get(response_id).response), media_type=JSON)

    return [create_response, stored_response]
