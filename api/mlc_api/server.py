"""The HTTP server: uvicorn on uvloop and httptools, with bounds on what a connection may cost.

uvicorn waits for ever for headers and for a reader that does not read, and sends chunked bodies to
HTTP/1.0 clients; `BoundedHttpProtocol` mends that. Signals belong to whoever runs the server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from http import HTTPStatus
from typing import Any, NoReturn

import uvicorn
from litestar.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mlc_api.errors import encode_error
from mlc_api.listener import BACKLOG
from mlc_api.tls import TlsSettings, uvicorn_options
from mlc_llm.errors import BadRequest, MLCError, Overloaded

HEADER_SECONDS = 10.0
"""From a connection's first byte, or its opening, to the end of the headers."""
WRITE_SECONDS = 60.0
"""How long a reader may leave a full send buffer untouched."""
MAX_HEADER_BYTES = 64 << 10
MAX_HEADERS = 256
KEEP_ALIVE_SECONDS = 30
MAX_CONNECTIONS = 8192


class HeadersTooLarge(BadRequest):
    """The request's headers are over the limit."""

    status_code = 431
    code = "headers_too_large"


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection, with limits on the time and size of headers and on a stalled reader."""

    _deadline: asyncio.TimerHandle | None = None
    _write_deadline: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _in_headers = True
    _problem: str | None = None
    """What is wrong with the request that the parser gives up, where we know better than it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_deadline()
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(Overloaded("This server has too many connections; try again in a moment."))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        self._stop_write_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self._refuse(HeadersTooLarge("The request headers are too large."))
        elif self._is_idle and self._deadline is None and self.timeout_keep_alive_task is None:
            self._start_deadline()  # bytes that begin no request keep no connection alive

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True
        self._header_bytes = 0
        if self._deadline is None:
            self._start_deadline()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self._give_up_parsing(f"The request has more than {MAX_HEADERS} headers.")

    def on_headers_complete(self) -> None:
        assert self.parser is not None
        hosts = [name for name, _ in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            self._give_up_parsing("A request of HTTP/1.1 must have one Host header.")
        self._in_headers = False
        self._stop_deadline()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_write_deadline()
        self._write_deadline = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_write_deadline()
        super().resume_writing()

    def _unsupported_upgrade_warning(self) -> None:
        """Whoever asks for an upgrade is answered without; no client may fill the log."""

    def _give_up_parsing(self, problem: str) -> NoReturn:
        self._problem = problem
        raise ValueError(problem)  # through the parser, to `send_400_response`

    def send_400_response(self, msg: str) -> None:
        self._refuse(BadRequest(self._problem or msg, code="bad_http"))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.scope["http_version"] == "1.0":
            app = _close_delimited(app, cycle)
        super()._start_asgi_task(cycle, app)

    def _refuse(self, error: MLCError) -> None:
        """Answers what never became a request, and closes."""
        body = encode_error(error)
        status = HTTPStatus(error.status_code)
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (status, status.phrase.encode(), len(body), body)
        )
        self.transport.close()

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _give_up(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_write_deadline(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None


def _close_delimited(app: Any, cycle: RequestResponseCycle) -> Any:
    """HTTP/1.0 has no chunks: a body of unknown length ends where the connection ends."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        unframed = False

        async def send_unframed(message: Any) -> None:
            nonlocal unframed
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message.get("headers", ())}
                unframed = b"content-length" not in names
                cycle.chunked_encoding = False if unframed else None
            elif unframed:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_unframed)

    return wrapped


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    def stop(self) -> None:
        """Stops accepting; running responses have the graceful time left."""
        self.should_exit = True


def make_server(
    app: ASGIApp,
    graceful_seconds: int,
    *,
    access_log: bool = False,
    tls: TlsSettings | None = None,
) -> Server:
    """A server for `app`; run it with `await server.serve(sockets=[listener])`.

    `access_log`: one line per request to the logger `uvicorn.access`. `tls` has been checked.
    """
    config = uvicorn.Config(
        app,
        http=BoundedHttpProtocol,
        ws="none",
        lifespan="off",
        loop="none",
        interface="asgi3",
        log_config=None,
        access_log=access_log,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=graceful_seconds,
        **uvicorn_options(tls),
    )
    return Server(config)
