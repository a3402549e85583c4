"""How the web process is to behave: values, filled from the command line by `mlc_api.serve`."""

from __future__ import annotations

from msgspec import Struct

from mlc_api.tls import TlsSettings
from mlc_llm.serve.parsers import DEFAULT_PARSERS, Parsers

MAX_BODY_BYTES = 8 << 20
"""Reading a body holds up all streams: this many bytes of the worst kind take about 50 ms."""
MAX_BODIES_BYTES = 128 << 20


class CorsSettings(Struct, frozen=True, kw_only=True):
    """Which web pages may call this server from a browser."""

    allow_origins: tuple[str, ...] = ("*",)
    allow_methods: tuple[str, ...] = ("*",)
    allow_headers: tuple[str, ...] = ("*",)
    allow_credentials: bool = False


class WebSettings(Struct, frozen=True, kw_only=True):
    """Everything that the routes and their surroundings want to know."""

    model_id: str
    """The name in /v1/models and in answers to requests that name no model."""
    version: str = "0"
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    """Any one of them opens the server; none: no key is asked for."""
    tls: TlsSettings | None = None
    """None: plain HTTP."""
    cors: CorsSettings = CorsSettings()
    enable_debug: bool = False
    """Whether /debug/* exists and answers carry `usage.extra`."""
    enable_tracing: bool = False
    access_log: bool = False
    """Whether every request is a line in the log."""
    max_body_bytes: int = MAX_BODY_BYTES
    max_bodies_bytes: int = MAX_BODIES_BYTES
    """Of all requests together that are being read and prepared."""
    body_seconds: float = 60.0
    """How long a request's body may take to arrive."""
    parsers: Parsers = DEFAULT_PARSERS
    """How answers are read for thoughts and calls of tools."""
    graceful_seconds: int = 5
    """How long running answers may go on after the first signal to stop."""
