"""What clients, proxies and gateways do out of habit, and what they get."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import openai
import pytest
import requests

from mlc_api.settings import CorsSettings
from support.web import WebServer, read_until, request

BODY = {"messages": [{"role": "user", "content": "hi"}]}
CHAT = json.dumps(BODY).encode()
PATH = "/v1/chat/completions"
SECONDS = 10


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.mark.parametrize("root", ["", "/v1", "/v1/"])
def test_the_base_url_may_be_given_with_and_without_v1(web: WebServer, root: str) -> None:
    with openai.OpenAI(base_url=web.url + root, api_key="-", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["mock"]
        assert client.models.retrieve("mock").id == "mock"
        answer = client.chat.completions.create(model="mock", messages=BODY["messages"])  # type: ignore[call-overload]
        assert client.completions.create(model="mock", prompt="a").choices[0].text
    assert answer.choices[0].message.content


@pytest.mark.parametrize(
    "path", [PATH + "/", PATH + "?api-version=2024-10-21", "//v1/chat/completions", PATH + "?"]
)
def test_slashes_and_queries_change_nothing(web: WebServer, path: str) -> None:
    assert requests.post(web.url + path, json=BODY, timeout=SECONDS).status_code == 200


def test_a_compressed_body_is_refused_by_name(web: WebServer) -> None:
    for encoding, status in [("gzip", 415), ("br", 415), ("identity", 200), ("", 200)]:
        data = gzip.compress(CHAT) if encoding == "gzip" else CHAT
        headers = {"Content-Encoding": encoding}
        answer = requests.post(web.url + PATH, data=data, headers=headers, timeout=SECONDS)
        assert answer.status_code == status
        if status == 415:
            assert "Content-Encoding" in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [CHAT, CHAT.replace(b"{", b'{"stream": true, ', 1)])
def test_who_takes_compressed_answers_gets_readable_ones(web: WebServer, body: bytes) -> None:
    headers = {"Accept-Encoding": "gzip, deflate, br, zstd", "Accept": "*/*"}
    answer = requests.post(web.url + PATH, data=body, headers=headers, timeout=SECONDS)
    assert answer.status_code == 200
    assert "content-encoding" not in answer.headers
    assert "Hello" in answer.text


def test_a_body_in_chunks_is_read(web: WebServer) -> None:
    pieces = (CHAT[i : i + 7] for i in range(0, len(CHAT), 7))
    assert requests.post(web.url + PATH, data=pieces, timeout=SECONDS).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", PATH, b"[]", 400),
        ("POST", PATH, b"{", 400),
        ("POST", "/nowhere", CHAT, 404),
        ("PUT", PATH, CHAT, 405),
        ("GET", "/v1/models", CHAT, 200),
    ],
)
def test_a_connection_is_good_for_more_after_an_error(
    web: WebServer, method: str, path: str, body: bytes, status: int
) -> None:
    sent = request(method, path, close=False).replace(b"Content-Length: 0\r\n", b"")
    head = sent.removesuffix(b"\r\n") + b"Content-Length: %d\r\n\r\n" % len(body)
    with web.connect() as connection:
        connection.sendall(head + body)
        assert b"HTTP/1.1 %d" % status in read_until(connection, b"}")
        connection.sendall(request("POST", PATH, CHAT, close=False))
        assert b"HTTP/1.1 200" in read_until(connection, b'"chat.completion"')


def test_the_charset_of_a_body_is_utf_8_with_or_without_a_mark(web: WebServer) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        headers = {"Content-Type": "application/json; charset=utf-8"}
        answer = requests.post(web.url + PATH, data=mark + CHAT, headers=headers, timeout=SECONDS)
        assert answer.status_code == 200


def test_options_names_the_methods_that_there_are(web: WebServer) -> None:
    for path, methods in [(PATH, {"POST", "OPTIONS"}), ("/v1/models", {"GET", "OPTIONS"})]:
        answer = requests.options(web.url + path, timeout=SECONDS)
        assert answer.status_code == 204
        assert set(answer.headers["allow"].split(", ")) == methods
        wrong = requests.patch(web.url + path, timeout=SECONDS)
        assert wrong.status_code == 405
        (method,) = methods - {"OPTIONS"}
        assert wrong.json()["error"]["message"].endswith(f"; send {method}.")
        assert set(wrong.headers["allow"].split(", ")) == methods


def test_a_browser_may_send_the_headers_that_its_client_adds(web: WebServer) -> None:
    asked = "authorization, content-type, x-stainless-lang, x-stainless-retry-count"
    headers = {
        "Origin": "http://a.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": asked,
    }
    answer = requests.options(web.url + PATH, headers=headers, timeout=SECONDS)
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert set(asked.split(", ")) <= set(allowed.split(", "))


def test_a_browser_is_held_to_the_origins_that_were_named() -> None:
    allowed, other = "http://a.example", "http://b.example"
    with WebServer(cors=CorsSettings(allow_origins=(allowed,), allow_credentials=True)) as web:
        for origin, expected in [(allowed, allowed), (other, None)]:
            headers = {"Origin": origin}
            answer = requests.get(web.url + "/v1/models", headers=headers, timeout=SECONDS)
            assert answer.headers.get("access-control-allow-origin") == expected
            asked = {**headers, "Access-Control-Request-Method": "POST"}
            preflight = requests.options(web.url + PATH, headers=asked, timeout=SECONDS)
            assert preflight.headers.get("access-control-allow-origin") == expected


def test_a_preflight_needs_no_key() -> None:
    with WebServer(api_keys=("k",)) as web:
        asked = {"Origin": "http://a.example", "Access-Control-Request-Method": "POST"}
        assert requests.options(web.url + PATH, headers=asked, timeout=SECONDS).ok
        failed = requests.get(web.url + "/v1/models", headers=asked, timeout=SECONDS)
        assert failed.status_code == 401
        assert failed.headers["access-control-allow-origin"] == "*"
