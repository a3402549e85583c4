"""The OpenAPI document and its page, made from the structs that are really read and written.

Pure. The page is plain HTML without scripts or addresses elsewhere, so it works offline.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from typing import Any, NamedTuple

import msgspec

from mlc_api.errors import ErrorBody
from mlc_llm.protocol.embeddings import EmbeddingRequest, EmbeddingResponse
from mlc_llm.protocol.requests import ChatCompletionRequest, CompletionRequest
from mlc_llm.protocol.responses import (
    ChatCompletionResponse,
    ChatCompletionStreamResponse,
    CompletionResponse,
    CompletionStreamResponse,
    ModelList,
    ModelResponse,
)
from mlc_llm.protocol.responses_api import (
    STREAM_EVENTS,
    DeletedResponse,
    InputTokens,
    ItemList,
    ResponseObject,
    ResponsesRequest,
)
from mlc_llm.protocol.text_tools import (
    DetokenizeRequest,
    DetokenizeResponse,
    ScoreRequest,
    ScoreResponse,
    TemplateResponse,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
    VersionResponse,
)

TITLE = "MLC LLM serve"


class Endpoint(NamedTuple):
    """One route, as a reader wants to know it."""

    method: str
    path: str
    summary: str
    request: type | None = None
    response: type | None = None
    events: tuple[type, ...] = ()
    """What a server-sent event may hold when `stream` is true."""
    done: bool = False
    """Whether a stream's last event is the word [DONE]."""
    content_type: str = "application/json"
    open: bool = False
    """Whether it answers without the API key."""
    debug: bool = False
    """Whether it exists only with --enable-debug."""
    query: tuple[tuple[str, dict[str, Any]], ...] = ()
    """Parameters after the question mark, with their schemas."""


ENDPOINTS = (
    Endpoint("get", "/v1/models", "The models that are served here.", response=ModelList),
    Endpoint("get", "/v1/models/{model_id}", "One model by its id.", response=ModelResponse),
    Endpoint(
        "post",
        "/v1/chat/completions",
        "The next message of a conversation, whole or streamed.",
        ChatCompletionRequest,
        ChatCompletionResponse,
        (ChatCompletionStreamResponse,),
        done=True,
    ),
    Endpoint(
        "post",
        "/v1/completions",
        "Text after a prompt, whole or streamed.",
        CompletionRequest,
        CompletionResponse,
        (CompletionStreamResponse,),
        done=True,
    ),
    Endpoint(
        "post",
        "/v1/responses",
        "The next turn of a conversation, whole or streamed, kept to go on from.",
        ResponsesRequest,
        ResponseObject,
        STREAM_EVENTS,
    ),
    Endpoint(
        "post",
        "/v1/responses/input_tokens",
        "How many tokens the prompt of such a request has.",
        ResponsesRequest,
        InputTokens,
    ),
    Endpoint("get", "/v1/responses/{response_id}", "A stored response.", response=ResponseObject),
    Endpoint(
        "get",
        "/v1/responses/{response_id}/input_items",
        "The conversation that a stored response goes on from.",
        response=ItemList,
        query=(
            ("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
            ("order", {"enum": ["asc", "desc"], "default": "desc"}),
            ("after", {"type": "string"}),
        ),
    ),
    Endpoint(
        "post",
        "/v1/responses/{response_id}/cancel",
        "Refused: only responses in the background could be cancelled.",
        response=ResponseObject,
    ),
    Endpoint(
        "delete",
        "/v1/responses/{response_id}",
        "Forgets a stored response.",
        response=DeletedResponse,
    ),
    Endpoint(
        "post",
        "/v1/embeddings",
        "One vector for each text.",
        EmbeddingRequest,
        EmbeddingResponse,
    ),
    Endpoint(
        "post",
        "/tokenize",
        "The tokens of a text or of a conversation.",
        TokenizeRequest,
        TokenizeResponse,
    ),
    Endpoint("post", "/detokenize", "The text of tokens.", DetokenizeRequest, DetokenizeResponse),
    Endpoint(
        "get", "/tokenizer_info", "Special tokens and the chat template.", response=TokenizerInfo
    ),
    Endpoint(
        "post",
        "/apply-template",
        "The prompt that a conversation becomes.",
        ChatCompletionRequest,
        TemplateResponse,
    ),
    Endpoint(
        "post",
        "/score",
        "How likely texts are as continuations of others.",
        ScoreRequest,
        ScoreResponse,
    ),
    Endpoint("get", "/version", "The version of this server.", response=VersionResponse),
    Endpoint("get", "/health", "200 while the engine takes requests, else 503.", open=True),
    Endpoint("get", "/ready", "The same as /health.", open=True),
    Endpoint("get", "/ping", "The same as /health.", open=True),
    Endpoint("post", "/ping", "The same as /health.", open=True),
    Endpoint("get", "/metrics", "Metrics for Prometheus.", content_type="text/plain"),
    Endpoint("get", "/openapi.json", "This description, for programs."),
    Endpoint("get", "/docs", "This description, for people.", content_type="text/html"),
    Endpoint("post", "/debug/dump_event_trace", "Events in Chrome's trace format.", debug=True),
    Endpoint("post", "/debug/dump_engine_metrics", "The engine's counters.", debug=True),
    Endpoint("post", "/debug/reset_engine", "Aborts everything, drops all caches.", debug=True),
)


def document(*, debug: bool, with_key: bool, version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a server with or without debug routes and an API key."""
    endpoints = [endpoint for endpoint in ENDPOINTS if debug or not endpoint.debug]
    kinds = [kind for e in endpoints for kind in (e.request, e.response, *e.events) if kind]
    _, schemas = msgspec.json.schema_components(
        [*kinds, ErrorBody], ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method] = _operation(endpoint, with_key)
    components: dict[str, Any] = {"schemas": schemas}
    if with_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": version},
        "paths": paths,
        "components": components,
    }


def _operation(endpoint: Endpoint, with_key: bool) -> dict[str, Any]:
    content: dict[str, Any] = {endpoint.content_type: _media(endpoint.response)}
    if endpoint.events:
        content["text/event-stream"] = _event(*endpoint.events, done=endpoint.done)
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "responses": {
            "200": {"description": "Success.", "content": content},
            "default": {
                "description": "Any error.",
                "content": {"application/json": _media(ErrorBody)},
            },
        },
    }
    if endpoint.request is not None:
        body = {"application/json": _media(endpoint.request)}
        operation["requestBody"] = {"required": True, "content": body}
    if parameters := _parameters(endpoint):
        operation["parameters"] = parameters
    if with_key and not endpoint.open:
        operation["security"] = [{"key": []}]
    return operation


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if "{" in endpoint.path:
        name = endpoint.path.partition("{")[2].partition("}")[0]
        found.append({"name": name, "in": "path", "required": True, "schema": {"type": "string"}})
    return found + [{"name": name, "in": "query", "schema": s} for name, s in endpoint.query]


def _media(*kinds: type | None) -> dict[str, Any]:
    """Any one of these; nothing is known of what has no kind."""
    schemas = [{"$ref": f"#/components/schemas/{kind.__name__}"} for kind in kinds if kind]
    if len(schemas) > 1:
        return {"schema": {"anyOf": schemas}}
    return {"schema": schemas[0]} if schemas else {}


def _event(*kinds: type | None, done: bool) -> dict[str, Any]:
    """One server-sent event, as the field names and values that it has on the wire."""
    told = {"contentMediaType": "application/json", "contentSchema": _media(*kinds)["schema"]}
    data: dict[str, Any] = {"type": "string", **told}
    if done:
        data = {"type": "string", "anyOf": [told, {"const": "[DONE]"}]}
    properties = {"event": {"type": "string"}, "data": data}
    return {"schema": {"type": "object", "properties": properties, "required": ["data"]}}


STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
code,td:first-child{font-family:ui-monospace,monospace}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.25rem .75rem;border-bottom:1px solid #ddd;vertical-align:top}
h2{margin-top:2rem}
"""


def page(spec: dict[str, Any], model: str) -> str:
    """The document as one HTML page."""
    info = spec["info"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(TITLE)}</title>",
        f"<style>{STYLE}</style>",
        f"<h1>{escape(TITLE)} <small>{escape(info['version'])}</small></h1>",
        f"<p>Serves <code>{escape(model)}</code>. For programs: ",
        '<a href="openapi.json">openapi.json</a>.</p><h2>Endpoints</h2><table>',
        *_endpoint_rows(spec["paths"]),
        "</table>",
    ]
    for name, schema in spec["components"]["schemas"].items():
        parts.extend(_schema_table(name, schema))
    return "".join(parts) + "</html>"


def _endpoint_rows(paths: dict[str, Any]) -> Iterable[str]:
    for path, operations in paths.items():
        for method, operation in operations.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            links = [_type_of(body["schema"])] if body else []
            for media in operation["responses"]["200"]["content"].values():
                links += [_type_of(media["schema"])] if media else []
            yield (
                f"<tr><td>{method.upper()} {escape(path)}<td>{escape(operation['summary'])}"
                f"<td>{' → '.join(links)}"
            )


def _schema_table(name: str, schema: dict[str, Any]) -> Iterable[str]:
    yield f'<h2 id="{escape(name)}">{escape(name)}</h2><p>{escape(schema.get("description", ""))}'
    yield "<table>"
    required = set(schema.get("required", ()))
    for field, kind in schema.get("properties", {}).items():
        need = "required" if field in required else _default(kind)
        yield f"<tr><td>{escape(field)}<td>{_type_of(kind)}<td>{need}"
    yield "</table>"


def _default(kind: dict[str, Any]) -> str:
    return (
        f"default <code>{escape(json.dumps(kind['default']))}</code>" if "default" in kind else ""
    )


def _type_of(kind: dict[str, Any]) -> str:
    if "$ref" in kind:
        name = escape(kind["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    if "data" in kind.get("properties", {}):
        return _type_of(kind["properties"]["data"])
    if "contentSchema" in kind:
        return _type_of(kind["contentSchema"])
    if "const" in kind:
        return escape(json.dumps(kind["const"]))
    if "anyOf" in kind:
        return " or ".join(_type_of(option) for option in kind["anyOf"])
    if "enum" in kind:
        return " or ".join(escape(json.dumps(value)) for value in kind["enum"])
    if kind.get("type") == "array":
        return f"list of {_type_of(kind.get('items') or {})}"
    if kind.get("type") == "object" and isinstance(kind.get("additionalProperties"), dict):
        return f"map to {_type_of(kind['additionalProperties'])}"
    return escape(str(kind.get("type", "anything")))
