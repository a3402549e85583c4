"""POST /tokenize, /detokenize and /apply-template, GET /tokenizer_info: also under /v1."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler

from mlc_api.routes.body import read_body
from mlc_api.sse import encode_object
from mlc_api.state import Served
from mlc_api.text_tools import TextTools

JSON = "application/json"


def text_tool_routes(served: Served, tools: TextTools) -> list[HTTPRouteHandler]:
    """The routes over one served model; the engine is not asked."""
    seconds = served.settings.body_seconds

    @post(["/tokenize", "/v1/tokenize"], status_code=200)
    async def tokenize(request: Request[Any, Any, Any]) -> Response[bytes]:
        found = await tools.tokenize(await read_body(request, seconds))
        return Response(encode_object(found), media_type=JSON)

    @post(["/detokenize", "/v1/detokenize"], status_code=200)
    async def detokenize(request: Request[Any, Any, Any]) -> Response[bytes]:
        found = await tools.detokenize(await read_body(request, seconds))
        return Response(encode_object(found), media_type=JSON)

    @post(["/apply-template", "/v1/apply-template"], status_code=200)
    async def apply_template(request: Request[Any, Any, Any]) -> Response[bytes]:
        found = await tools.apply_template(await read_body(request, seconds))
        return Response(encode_object(found), media_type=JSON)

    @get(["/tokenizer_info", "/v1/tokenizer_info"], sync_to_thread=False)
    def tokenizer_info() -> Response[bytes]:
        return Response(encode_object(tools.tokenizer_info()), media_type=JSON)

    return [tokenize, detokenize, apply_template, tokenizer_info]
