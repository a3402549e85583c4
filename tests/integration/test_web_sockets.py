"""The web process on raw sockets: what clients break, it survives."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator

import pytest
import requests

from mlc_api import server as web_server
from mlc_api.routes import body as web_body
from support.mock_client import MockEngine, says, says_then_waits
from support.web import WebServer, read_all, read_until, request

CHAT = json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode()
STREAM = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
PATH = "/v1/chat/completions"
SECONDS = 10


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


def wait_for_abort(engine: MockEngine) -> None:
    assert engine.was_closed.wait(SECONDS)
    assert engine.aborted == [submit.request_id for submit in engine.submitted]


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "streamed"])
def test_leaving_before_the_first_token_aborts(body: bytes) -> None:
    with WebServer(MockEngine(says_then_waits())) as web:
        with web.connect() as connection:
            connection.sendall(request("POST", PATH, body))
            assert web.engine.was_opened.wait(SECONDS)
        wait_for_abort(web.engine)


def test_leaving_in_mid_stream_aborts() -> None:
    with WebServer(MockEngine(says_then_waits("a", "b"))) as web:
        with web.connect() as connection:
            connection.sendall(request("POST", PATH, STREAM))
            read_until(connection, b'"content":"b"')
        wait_for_abort(web.engine)


def test_an_answer_that_was_given_aborts_nothing(web: WebServer) -> None:
    web.exchange(request("POST", PATH, STREAM))
    assert web.engine.was_closed.wait(SECONDS)
    assert web.engine.aborted == []


def test_one_client_leaving_does_not_disturb_another() -> None:
    with WebServer(MockEngine(says_then_waits("a"))) as web, web.connect() as stays:
        stays.sendall(request("POST", PATH, STREAM))
        read_until(stays, b'"content":"a"')
        with web.connect() as leaves:
            leaves.sendall(request("POST", PATH, STREAM))
            read_until(leaves, b'"content":"a"')
        assert web.engine.was_closed.wait(SECONDS)
        assert web.engine.aborted == [web.engine.submitted[1].request_id]


def test_pipelined_requests_are_answered_in_order(web: WebServer) -> None:
    first = request("GET", "/health", close=False)
    answers = web.exchange(
        first + request("POST", PATH, STREAM, close=False) + request("GET", "/x")
    )
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    ok, done, missing = (answers.index(m) for m in (b'"ok"', b"[DONE]", b"404 Not Found"))
    assert ok < done < missing


def test_a_stream_is_one_chunk_per_event(web: WebServer) -> None:
    body = web.exchange(request("POST", PATH, STREAM)).partition(b"\r\n\r\n")[2]
    chunks = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        chunk, body = rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        chunks.append(chunk)
    assert chunks.pop() == b""
    assert chunks.pop() == b"data: [DONE]\n\n"
    assert all(c.startswith(b"data: {") and c.count(b"\n\n") == 1 for c in chunks)


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "streamed"])
def test_http_1_0_gets_an_unframed_body_that_ends_with_the_connection(
    web: WebServer, body: bytes
) -> None:
    head, _, answer = web.exchange(request("POST", PATH, body, version="1.0")).partition(
        b"\r\n\r\n"
    )
    assert b"chunked" not in head
    if body is STREAM:
        assert answer.startswith(b"data: {")
        assert answer.endswith(b"data: [DONE]\n\n")
    else:
        assert json.loads(answer)["object"] == "chat.completion"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"HELLO\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n" * 20 + b"?",
    ],
    ids=["tls", "word", "version", "blank"],
)
def test_garbage_gets_one_openai_error_and_the_door(web: WebServer, garbage: bytes) -> None:
    head, _, body = web.exchange(garbage + b"\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert requests.get(web.url + "/health", timeout=SECONDS).status_code == 200


@pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nhost: b\r\n"], ids=["none", "two"])
def test_a_request_that_does_not_name_one_host_is_told_so(web: WebServer, hosts: bytes) -> None:
    head, _, body = web.exchange(b"GET /health HTTP/1.1\r\n" + hosts + b"\r\n").partition(
        b"\r\n\r\n"
    )
    assert head.startswith(b"HTTP/1.1 400")
    assert (
        json.loads(body)["error"]["message"] == "A request of HTTP/1.1 must have one Host header."
    )


def test_http_1_0_has_no_need_of_a_host(web: WebServer) -> None:
    assert web.exchange(b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "header", [b"X: " + b"a" * 200_000, b"X: a\r\n" * 40_000], ids=["long", "many"]
)
def test_endless_headers_are_refused(web: WebServer, header: bytes) -> None:
    with web.connect() as connection:
        sender = threading.Thread(target=_send, args=(connection, b"GET / HTTP/1.1\r\n" + header))
        sender.start()
        try:
            head = read_until(connection, b"\r\n")
        finally:
            sender.join(SECONDS)
    assert head.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))


def _send(connection, data: bytes) -> None:
    with contextlib.suppress(OSError):  # the server has closed
        connection.sendall(data)


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost:"], ids=["nothing", "a part"])
def test_headers_that_do_not_come_end_the_connection(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_server, "HEADER_SECONDS", 0.05)
    with WebServer() as web:
        assert web.exchange(sent) == b""


@pytest.mark.parametrize("rest", [b"\r\n", b"unread"], ids=["blank", "unread body"])
def test_bytes_that_begin_no_request_keep_no_connection_alive(
    rest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_server, "HEADER_SECONDS", 0.05)
    first = request("GET", "/health", close=False)
    if rest == b"unread":
        first = first.replace(b"\r\n\r\n", b"\r\nContent-Length: 1000\r\n\r\n")
    with WebServer() as web, web.connect() as connection:
        connection.sendall(first)
        read_until(connection, b'"ok"')
        connection.sendall(rest)
        assert read_all(connection) == b""


def test_a_body_that_does_not_come_is_a_408() -> None:
    with WebServer(body_seconds=0.05) as web, web.connect() as connection:
        connection.sendall(request("POST", PATH, CHAT)[:-5])
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_body_over_the_limit_is_a_413(framing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_body, "LINGER_SECONDS", 0.05)
    with WebServer(max_body_bytes=1000) as web, web.connect() as connection:
        if framing == "length":
            connection.sendall(request("POST", PATH, b" " * 1001))
        else:
            head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head.encode() + b"400\r\n" + b" " * 1024 + b"\r\n")
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413")
    assert json.loads(body)["code"] == 413


@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_sends_everything_first_sees_the_413(chunked: bool) -> None:
    sent = [b" " * 65536] * 256
    with WebServer(max_body_bytes=1000) as web:
        data = iter(sent) if chunked else b"".join(sent)
        answer = requests.post(web.url + PATH, data=data, timeout=SECONDS)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_entity_too_large"


def test_who_asks_before_sending_too_much_is_told_at_once() -> None:
    with WebServer(max_body_bytes=1000) as web, web.connect() as connection:
        head, _, _ = request("POST", PATH, b" " * 1001).partition(b"\r\n\r\n")
        connection.sendall(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 413")


def test_bodies_are_bounded_together_and_the_room_comes_back() -> None:
    half = CHAT + b" " * (600 - len(CHAT))
    with WebServer(max_bodies_bytes=1000) as web:
        with web.connect() as slow:
            slow.sendall(request("POST", PATH, half)[:-1])
            while not (refused := requests.post(web.url + PATH, data=half, timeout=SECONDS)).ok:
                assert refused.status_code == 503
                assert refused.headers["retry-after"]
                assert refused.json()["error"]["code"] == "overloaded"
                slow.sendall(b" ")
                assert b"200 OK" in read_all(slow)
        for _ in range(5):
            assert requests.post(web.url + PATH, data=half, timeout=SECONDS).ok


def test_a_connection_too_many_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "MAX_CONNECTIONS", 1)
    with WebServer() as web, web.connect() as first:
        first.sendall(request("GET", "/health", close=False))
        read_until(first, b'"ok"')
        assert b"HTTP/1.1 503" in web.exchange(b"")
        first.sendall(request("GET", "/health"))
        assert b"200 OK" in read_all(first)


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/metrics", "/docs", "/openapi.json"])
def test_head_is_get_without_the_body(web: WebServer, path: str) -> None:
    head, got = (
        requests.head(web.url + path, timeout=SECONDS),
        requests.get(web.url + path, timeout=SECONDS),
    )
    assert head.status_code == got.status_code == 200
    assert head.headers["content-type"] == got.headers["content-type"]
    assert head.content == b""
    assert requests.head(web.url + PATH, timeout=SECONDS).status_code == 405


def test_the_content_type_does_not_matter_if_the_body_is_json(web: WebServer) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = requests.post(
            web.url + PATH, data=CHAT, headers={"Content-Type": content_type}, timeout=SECONDS
        )
        assert answer.status_code == 200, answer.text


def test_expect_100_continue_is_answered(web: WebServer) -> None:
    with web.connect() as connection:
        sent = request("POST", PATH, CHAT).replace(
            b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n", 1
        )
        head, _, body = sent.partition(b"\r\n\r\n")
        connection.sendall(head + b"\r\n\r\n")
        read_until(connection, b"100 Continue")
        connection.sendall(body)
        assert b"200 OK" in read_all(connection)


def test_a_reader_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "WRITE_SECONDS", 0.05)
    with WebServer(MockEngine(says(*["x" * 60_000] * 400))) as web, web.connect() as connection:
        connection.sendall(request("POST", PATH, STREAM))
        wait_for_abort(web.engine)


def test_a_stopping_server_lets_a_running_answer_finish() -> None:
    engine = MockEngine(says_then_waits("a"))
    with WebServer(engine, graceful_seconds=SECONDS) as web:
        connection = web.connect()
        connection.sendall(request("POST", PATH, STREAM))
        read_until(connection, b'"content":"a"')
        web.stop()
        engine.let_go("b")
        assert read_all(connection).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        connection.close()
