"""GET /v1/models and /v1/models/{id}: the one model that is served here."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from urllib.parse import unquote_to_bytes

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from msgspec import UNSET, UnsetType

from mlc_api.sse import encode_object
from mlc_api.state import Served
from mlc_llm.errors import EngineUnavailable
from mlc_llm.protocol.responses import ModelList, ModelResponse
from mlc_llm.serve.request.model_name import check_model_name

JSON = "application/json"


def model_routes(served: Served) -> list[HTTPRouteHandler]:
    """The routes over one served model."""
    model_id = served.settings.model_id

    def model() -> ModelResponse:
        longest: int | UnsetType = UNSET
        with suppress(EngineUnavailable):
            longest = served.engine.ready.max_single_sequence_length
        return ModelResponse(
            id=model_id,
            created=served.created,
            object="model",
            owned_by="MLC-LLM",
            max_model_len=longest,
        )

    @get(["/v1/models", "/models"], sync_to_thread=False)
    def list_models() -> Response[bytes]:
        found = ModelList(object="list", data=[model()])
        return Response(encode_object(found), media_type=JSON)

    @get(["/v1/models/{model_id:path}", "/models/{model_id:path}"], sync_to_thread=False)
    def get_model(request: Request[Any, Any, Any]) -> Response[bytes]:
        # An id may be a path or an address, whose slashes the router would have merged.
        raw_path: bytes = request.scope["raw_path"]
        asked = unquote_to_bytes(raw_path.partition(b"/models/")[2]).decode(errors="replace")
        check_model_name(asked, model_id)
        return Response(encode_object(model()), media_type=JSON)

    return [list_models, get_model]
