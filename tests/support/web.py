"""The web process's application on a real socket, in a thread of its own, over a mock engine."""

from __future__ import annotations

import asyncio
import socket
import threading
from types import TracebackType

import uvloop

from mlc_api.app import make_app
from mlc_api.listener import open_listener
from mlc_api.server import Server, make_server
from mlc_api.settings import WebSettings
from mlc_api.state import Served
from support.mock_client import MockEngine, MockPreparer

START_SECONDS = 10


class WebServer:
    """Listens inside a `with` block; `engine` may be changed from the test at any time."""

    def __init__(self, engine: MockEngine | None = None, **settings: object) -> None:
        self.engine = engine or MockEngine()
        self.settings = WebSettings(**{"model_id": "mock", "graceful_seconds": 1, **settings})  # type: ignore[arg-type]
        self.served = Served(self.settings, self.engine, MockPreparer())
        self._listener = open_listener("127.0.0.1", 0)
        self.port: int = self._listener.getsockname()[1]
        self._started = threading.Event()
        self._server: Server | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        """http://host:port"""
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        """A raw connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def exchange(self, data: bytes) -> bytes:
        """Everything the server says to `data` until it closes the connection."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)

    def stop(self) -> None:
        """Stops accepting, as after a signal."""
        assert self._server is not None
        self._server.stop()

    def __enter__(self) -> WebServer:
        self._thread.start()
        assert self._started.wait(START_SECONDS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self._thread.join(START_SECONDS)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        app = make_app(self.served)
        self._server = make_server(app, self.settings.graceful_seconds, tls=self.settings.tls)
        asyncio.get_running_loop().call_soon(self._started.set)
        await self._server.serve(sockets=[self._listener])


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    received = bytearray()
    while data := connection.recv(65536):
        received += data
    return bytes(received)


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    """Everything up to and with the first read that completes `mark`."""
    received = bytearray()
    while mark not in received:
        data = connection.recv(65536)
        assert data, f"closed before {mark!r}: {bytes(received)!r}"
        received += data
    return bytes(received)


def request(
    method: str, path: str, body: bytes = b"", *, version: str = "1.1", close: bool = True
) -> bytes:
    """A request as bytes."""
    head = f"{method} {path} HTTP/{version}\r\nHost: x\r\n"
    if body or method == "POST":
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    if close:
        head += "Connection: close\r\n"
    return head.encode() + b"\r\n" + body
