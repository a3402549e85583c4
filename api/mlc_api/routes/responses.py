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

ONE = "/{response_id:str}"


def response_routes(served: Served, tools: TextTools) -> list[HTTPRouteHandler]:
    """The routes over one served model and the responses that it stored."""
    store = ResponseStore()
    return [
        _create(served, tools, store),
        _count_input_tokens(served, tools, store),
        _stored(store),
        _input_items(store),
        _cancel(store),
    ]


def _create(served: Served, tools: TextTools, store: ResponseStore) -> HTTPRouteHandler:
    @post(_paths(""), status_code=200)
    async def create_response(request: Request[Any, Any, Any]) -> ASGIApp:
        body = await read_body(request, served.settings.body_seconds)
        asked = await tools.respond(body, store, f"resp_{uuid4().hex}")
        return respond_to(served, asked, store)

    return create_response


def _count_input_tokens(served: Served, tools: TextTools, store: ResponseStore) -> HTTPRouteHandler:
    @post(_paths("/input_tokens"), status_code=200)
    async def count_input_tokens(request: Request[Any, Any, Any]) -> Response[bytes]:
        body = await read_body(request, served.settings.body_seconds)
        return _json(await tools.input_tokens(body, store))

    return count_input_tokens


def _stored(store: ResponseStore) -> HTTPRouteHandler:
    methods = [HttpMethod.GET, HttpMethod.DELETE]  # one handler, so that OPTIONS has both

    @route(_paths(ONE), http_method=methods, status_code=200, sync_to_thread=False)
    def stored_response(request: Request[Any, Any, Any]) -> Response[bytes]:
        response_id = request.path_params["response_id"]
        if request.method == HttpMethod.DELETE:
            store.delete(response_id)
            return _json(DeletedResponse(id=response_id, object="response", deleted=True))
        found = store.get(response_id).response
        if request.query_params.get("stream") == "true":
            raise BadRequest(
                "A stored response cannot be streamed; leave `stream` out.", param="stream"
            )
        return _json(found)

    return stored_response


def _input_items(store: ResponseStore) -> HTTPRouteHandler:
    @get(_paths(f"{ONE}/input_items"), sync_to_thread=False)
    def list_input_items(request: Request[Any, Any, Any]) -> Response[bytes]:
        items = input_items(store.get(request.path_params["response_id"]))
        return _json(item_page(items, request.query_params))

    return list_input_items


def _cancel(store: ResponseStore) -> HTTPRouteHandler:
    @post(_paths(f"{ONE}/cancel"), status_code=200, sync_to_thread=False)
    def cancel_response(request: Request[Any, Any, Any]) -> Response[bytes]:
        store.get(request.path_params["response_id"])
        raise BadRequest(
            "Only responses in the background can be cancelled, and there are none here; close "
            "the connection of an answer to end it.",
            param="response_id",
        )

    return cancel_response


def _paths(tail: str) -> list[str]:
    return [f"/v1/responses{tail}", f"/responses{tail}"]


def _json(value: Any) -> Response[bytes]:
    return Response(encode_object(value), media_type="application/json")
