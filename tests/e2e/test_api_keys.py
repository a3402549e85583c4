"""With a key, every endpoint that the server knows of is closed but those that say how it is."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import requests

from mlc_api.openapi import ENDPOINTS
from support.server import Server

KEYS = ("first key", "second")


@pytest.fixture(scope="module")
def closed() -> Iterator[Server]:
    """The packaged model behind two keys; /health, which the start waits for, is open."""
    flags = [word for key in KEYS for word in ("--api-key", key)]
    with Server("--enable-debug", "--enable-tracing", *flags) as server:
        yield server


def test_no_endpoint_is_forgotten(closed: Server) -> None:
    assert [e.path for e in ENDPOINTS if e.open] == ["/health", "/ready", "/ping", "/ping"]
    for endpoint in ENDPOINTS:
        path = re.sub(r"{\w+}", "x", endpoint.path)
        for spelled in (path, "/" + path, path + "/", path.replace("/v1", "/%76%31")):
            answer = requests.request(endpoint.method, closed.root + spelled, json={}, timeout=30)
            allowed = (200, 404) if endpoint.open else (401, 404, 405)
            assert answer.status_code in allowed, (endpoint, spelled)
        answer = requests.request(endpoint.method, closed.root + path, json={}, timeout=30)
        assert answer.status_code == (200 if endpoint.open else 401), endpoint


@pytest.mark.parametrize("key", KEYS)
def test_any_of_the_keys_opens_all(closed: Server, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    for endpoint in ENDPOINTS:
        path = re.sub(r"{\w+}", "x", endpoint.path)
        answer = requests.request(
            endpoint.method, closed.root + path, json={}, headers=headers, timeout=30
        )
        assert answer.status_code != 401, endpoint
