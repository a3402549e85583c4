"""Paths of other servers' APIs, and where the same is found here."""

from __future__ import annotations

_UNKNOWN = "There is no such endpoint; GET /docs lists those that exist."
_COMPLETIONS = "This endpoint is called /v1/completions here, with `prompt` and `max_tokens`."

_HINTS = {
    "/completion": _COMPLETIONS,
    "/generate": _COMPLETIONS,
    "/generate_stream": _COMPLETIONS,
    "/infill": "This endpoint is called /v1/completions here, with `prompt` and `suffix`.",
    "/embedding": "This endpoint is called /v1/embeddings here.",
    "/invocations": "This endpoint is called /v1/chat/completions here.",
    "/props": "See GET /v1/models, GET /tokenizer_info and GET /metrics.",
    "/slots": "See GET /metrics for what is running.",
    "/v1/messages": "Only OpenAI's API is spoken here; chats go to /v1/chat/completions.",
    "/reset_prefix_cache": "Start the server with --enable-debug and POST /debug/reset_engine.",
}
_DEBUG = "Start the server with --enable-debug to have what is under /debug."
_OLLAMA = "Ollama's API is not spoken here; OpenAI's is, under /v1."


def no_endpoint(path: str) -> str:
    """What to say to who asks for a path that does not exist."""
    path = path.rstrip("/")
    if path.startswith("/debug/"):
        return _DEBUG
    if path.startswith("/api/"):
        return _OLLAMA
    return _HINTS.get(path, _UNKNOWN)
