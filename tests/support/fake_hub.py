"""A hub on a loopback address: repositories of files in memory, as `huggingface_hub` asks for them.

It can break a download off, and counts what it was asked for.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_API = re.compile(r"/api/models/([\w.-]+/[\w.-]+)(/revision/\w+)?(\?.*)?")
_TREE = re.compile(r"/api/models/([\w.-]+/[\w.-]+)/tree/\w+(\?.*)?")
_FILE = re.compile(r"/([\w.-]+/[\w.-]+)/resolve/\w+/([^?]+)(\?.*)?")


class FakeHub:
    """Repositories by name, each a mapping of file names to contents."""

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes]]) -> None:
        self.repositories = repositories
        self.requests: list[tuple[str, str, str | None]] = []
        """Method, path, and the range asked for."""
        self.break_after: dict[str, int] = {}
        """File names whose next download ends after so many bytes."""

    @contextmanager
    def serving(self) -> Iterator[str]:
        """The hub's address, while the body runs."""
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests look at `requests`."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        self.hub.requests.append((self.command, self.path, self.headers.get("Range")))
        if matched := _TREE.fullmatch(self.path):
            self._json(matched[1], self._tree, with_body)
        elif matched := _API.fullmatch(self.path):
            self._json(matched[1], self._info, with_body)
        elif matched := _FILE.fullmatch(self.path):
            self._file(matched[1], matched[2], with_body)
        else:
            self._send(404, b"", {}, with_body)

    def _json(self, repository: str, made: Any, with_body: bool) -> None:
        files = self.hub.repositories.get(repository)
        if files is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)
            return
        content = json.dumps(made(repository, files)).encode()
        self._send(200, content, {"Content-Type": "application/json"}, with_body)

    def _info(self, repository: str, files: Mapping[str, bytes]) -> dict[str, Any]:
        siblings = [{"rfilename": name} for name in files]
        return {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}

    def _tree(self, repository: str, files: Mapping[str, bytes]) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": len(data), "oid": _digest(data)}
            for name, data in files.items()
        ]

    def _file(self, repository: str, name: str, with_body: bool) -> None:
        data = self.hub.repositories.get(repository, {}).get(name)
        if data is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body)
            return
        headers = {"ETag": f'"{_digest(data)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        status, body = 200, data
        if asked := self.headers.get("Range"):
            first = int(asked.removeprefix("bytes=").split("-")[0])
            status, body = 206, data[first:]
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        self._send(
            status,
            body,
            headers,
            with_body,
            self.hub.break_after.pop(name, None) if with_body else None,
        )

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str],
        with_body: bool,
        broken_after: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body if broken_after is None else body[:broken_after])
            if broken_after is not None:
                self.wfile.flush()
                self.close_connection = True


def _digest(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
