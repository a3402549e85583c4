"""What is sent to get past a key, to confuse the framing or to break the reader of a body."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
import requests

from support.mock_client import MockEngine, says_then_waits
from support.web import WebServer, read_all, read_until, request

MESSAGE = {"role": "user", "content": "hi"}
CHAT = json.dumps({"messages": [MESSAGE]}).encode()
PATH = "/v1/chat/completions"
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode()
SECONDS = 10


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.fixture(scope="module")
def closed() -> Iterator[WebServer]:
    with WebServer(api_keys=("k",)) as server:
        yield server


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/models", "//v1/models", "/v1//models", "/v1/models/", "/v1/../v1/models",
        "/v1/%2e%2e/v1/models", "/V1/MODELS", "/health/../v1/models", "/v1/models;/health",
        "/v1/models?/health", "/v1/models#/health", "http://x/v1/models", "/v1%2fmodels",
        "/v1/models%00", "/v1/models/../../health", "/health/v1/models",
    ],
)  # fmt: skip
def test_no_way_of_writing_a_path_gets_past_the_key(
    closed: WebServer, path: str, method: str
) -> None:
    answer = closed.exchange(request(method, path))
    assert status(answer) in (401, 404, 405)
    assert b'"object":"list"' not in answer


@pytest.mark.parametrize("keys", [["x", "k"], ["k", "x"], ["k", "k"]])
def test_two_keys_in_one_request_are_none(closed: WebServer, keys: list[str]) -> None:
    lines = "".join(f"Authorization: Bearer {key}\r\n" for key in keys).encode()
    sent = request("GET", "/v1/models").replace(b"\r\n\r\n", b"\r\n" + lines + b"\r\n")
    assert status(closed.exchange(sent)) == 401


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"Content-Length: 5\r\nContent-Length: %d\r\n\r\n" % len(CHAT) + CHAT,
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n" + CHAT,
        HEAD + b"Content-Length: -5\r\n\r\n" + CHAT,
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
        HEAD + b"Content-Length: 0x10\r\n\r\n" + CHAT,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + CHAT,
        HEAD + b"X: a\0b\r\n\r\n",
        HEAD + b"X : a\r\n\r\n",
        b"GET /he\0alth HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_doubtful_framing_is_a_400_and_the_end_of_the_connection(
    web: WebServer, sent: bytes
) -> None:
    answer = web.exchange(sent + request("GET", "/health"))
    assert answer.count(b"HTTP/1.1 ") == 1
    assert status(answer) == 400
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'"\0"', 400),
        (b'"\\u0000"', 200),
        (b'"\xff"', 400),
        (b'"\xed\xa0\x80"', 400),
        (b'"\\ud83d\\ude00"', 200),
        (b'"\\x41"', 400),
        (b"1" * 5000, 400),
        (b"1e999999", 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 50_000, 400),
        (b'"' + b"\\u0041" * 100_000 + b'"', 200),
        (b'1,"content":"hi"', 400),
    ],
)
def test_strange_json_is_read_exactly_or_refused(
    web: WebServer, content: bytes, expected: int
) -> None:
    body = b'{"messages":[{"role":"user","content":' + content + b"}]}"
    answer = requests.post(web.url + PATH, data=body, timeout=SECONDS)
    assert answer.status_code == expected, answer.text
    assert ("error" in answer.json()) == (expected == 400)


def test_a_connection_stays_usable_after_every_kind_of_error(web: WebServer) -> None:
    errors = (request("POST", PATH, b"{", close=False), request("GET", "/nowhere", close=False))
    errors += (request("GET", PATH, close=False), request("POST", PATH, b"[]", close=False))
    answers = web.exchange(b"".join(errors) + request("POST", PATH, CHAT))
    found = [int(code) for code in re.findall(rb"HTTP/1.1 (\d+)", answers)]
    assert found == [400, 404, 405, 400, 200]


def test_a_request_to_upgrade_is_answered_and_not_logged(
    web: WebServer, caplog: pytest.LogCaptureFixture
) -> None:
    lines = b"\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    assert status(web.exchange(b"GET /health HTTP/1.1\r\nHost: x" + lines)) == 200
    assert "pip install" not in caplog.text


def test_a_stream_goes_on_while_hostile_bodies_arrive() -> None:
    engine = MockEngine(says_then_waits("a"))
    with WebServer(engine) as web, web.connect() as stream:
        streamed = json.dumps({"messages": [MESSAGE], "stream": True}).encode()
        stream.sendall(request("POST", PATH, streamed))
        read_until(stream, b'"content":"a"')
        for body in (b'{"prompt":[' + b"1," * (1 << 20) + b"1]}", b"[" * (1 << 20)) * 10:
            answer = requests.post(web.url + "/v1/completions", data=body, timeout=SECONDS)
            assert answer.status_code == 400
        assert len(engine.submitted) == 1
        engine.let_go("b")
        assert b"[DONE]" in read_all(stream)


LABEL = r'[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(
    rf"([a-zA-Z_:][\w:]*)(?:\{{({LABEL}(?:,{LABEL})*)\}})? (-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
)


@pytest.mark.parametrize("model_id", ["mock", 'a"b\\c\nd'])
def test_metrics_are_what_prometheus_reads(model_id: str) -> None:
    with WebServer(model_id=model_id) as web:
        requests.post(web.url + PATH, data=CHAT, timeout=SECONDS)
        answer = requests.get(web.url + "/metrics", timeout=SECONDS)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    kinds: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    for line in answer.content.decode().removesuffix("\n").split("\n"):
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name not in kinds
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            sample = SAMPLE.fullmatch(line)
            assert sample, line
            assert (sample[1], sample[2]) not in seen
            seen.add((sample[1], sample[2]))
            base = re.sub(r"_(bucket|sum|count)$", "", sample[1])
            kind = kinds.get(sample[1]) or kinds[base]
            assert kind == "histogram" or sample[1] in kinds
            assert kind != "counter" or sample[1].endswith("_total")


def test_every_documented_route_exists_and_asks_for_its_key(
    web: WebServer, closed: WebServer
) -> None:
    key = {"Authorization": "Bearer k"}
    locked = requests.get(closed.url + "/openapi.json", headers=key, timeout=SECONDS).json()
    for path, operations in locked["paths"].items():
        for method, operation in operations.items():
            url = closed.url + re.sub(r"\{\w+\}", "mock", path)
            answer = requests.request(method, url, timeout=SECONDS)
            if path.startswith(NEED_A_MODEL):
                continue
            assert (answer.status_code == 401) == ("security" in operation), (method, path)
            assert answer.status_code not in (404, 405), (method, path)
    plain = requests.get(web.url + "/openapi.json", timeout=SECONDS).json()
    assert set(plain["paths"]) == set(locked["paths"])


NEED_A_MODEL = (
    "/tokenize", "/detokenize", "/apply-template", "/score", "/v1/embeddings", "/v1/responses",
)  # fmt: skip
"""Routes that the servers under test have not, for want of a real tokenizer."""
