"""POST /v1/responses, and what may be asked of those that are stored."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from litestar import Request, Response, get, post, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from mlc_api.responding import respond_to
from mlc_api.routes.body import read_body
from mlc_api.sse import encode_object
from mlc_api.state import Served
from mlc_api.text_tools import TextTools
from mlc_llm.errors import BadRequest
from mlc_llm.protocol.responses_api import DeletedResponse
from mlc_llm.serve.responses.items import input_items, item_page
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
        found = store.get(response_id).response
        if request.query_params.get("stream") == "true":
            raise BadRequest(
                "A stored response cannot be streamed; leave `stream` out.", param="stream"
            )
        return Response(encode_object(found), media_type=JSON)

    @get(
        ["/v1/responses/{response_id:str}/input_items", "/responses/{response_id:str}/input_items"],
        sync_to_thread=False,
    )
    def list_input_items(request: Request[Any, Any, Any]) -> Response[bytes]:
        items = input_items(store.get(request.path_params["response_id"]))
        return Response(encode_object(item_page(items, request.query_params)), media_type=JSON)

    @post(
        ["/v1/responses/{response_id:str}/cancel", "/responses/{response_id:str}/cancel"],
        status_code=200,
        sync_to_thread=False,
    )
    def cancel_response(request: Request[Any, Any, Any]) -> Response[bytes]:
        store.get(request.path_params["response_id"])
        raise BadRequest(
            "Only responses in the background can be cancelled, and there are none here; close "
            "the connection of an answer to end it.",
            param="response_id",
        )

    @post(["/v1/responses/input_tokens", "/responses/input_tokens"], status_code=200)
    async def count_input_tokens(request: Request[Any, Any, Any]) -> Response[bytes]:
        body = await read_body(request, served.settings.body_seconds)
        return Response(encode_object(await tools.input_tokens(body, store)), media_type=JSON)

    return [
        create_response,
        stored_response,
        list_input_items,
        cancel_response,
        count_input_tokens,
    ]
