"""A client that leaves aborts its request, in whatever phase it is; the trace shows it."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest
import requests

from support.server import Server


def post(
    server: Server, body: dict[str, object], path: str = "/v1/chat/completions"
) -> socket.socket:
    """Send a request on a raw socket and hand over the socket."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    connection.sendall(head.encode() + data)
    return connection


def wait_until_idle(server: Server) -> None:
    """Until no request runs or waits and no page is in use."""
    deadline = time.monotonic() + 20
    pause = threading.Event()
    while time.monotonic() < deadline:
        stats = server.stats()
        if stats["vllm:num_requests_running"] + stats["vllm:num_requests_waiting"] == 0:
            return
        pause.wait(0.02)
    raise AssertionError(f"requests are still there\n{server.log}")


def long_chat(**fields: object) -> dict[str, object]:
    return {
        "messages": [{"role": "user", "content": "Tell me a story. " * 60}],
        "max_tokens": 1000,
        "ignore_eos": True,
        **fields,
    }


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": "Tell me a story. " * 60, "stream": True}),
        ("/v1/responses", {"input": "Tell me a story. " * 60}),
        ("/v1/embeddings", {"input": ["Tell me a story. " * 60] * 1000, "pooling": "mean"}),
        ("/score", {"text_1": "Tell me", "text_2": ["a story. " * 60] * 1000}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_leaving_any_endpoint_aborts(packaged: Server, path: str, body: dict[str, object]) -> None:
    post(packaged, body, path).close()
    wait_until_idle(packaged)
    waiting = post(packaged, body, path)
    for _ in range(50):
        if packaged.stats()["vllm:num_requests_running"]:
            break
    waiting.close()
    wait_until_idle(packaged)


@pytest.mark.parametrize("streamed", [True, False])
def test_leaving_at_once_aborts(packaged: Server, streamed: bool) -> None:
    post(packaged, long_chat(stream=streamed)).close()
    wait_until_idle(packaged)


def test_leaving_in_decode_aborts(packaged: Server) -> None:
    connection = post(packaged, long_chat(stream=True))
    received = b""
    while received.count(b"data: ") < 3:
        data = connection.recv(65536)
        assert data, received
        received += data
    connection.close()
    wait_until_idle(packaged)
    trace = requests.post(f"{packaged.root}/debug/dump_event_trace", json={}, timeout=30).json()
    assert any(event["name"].startswith("abort") for event in trace)


def test_leaving_while_waiting_aborts(packaged: Server) -> None:
    running = [post(packaged, long_chat(stream=True)) for _ in range(6)]
    for connection in reversed(running):
        connection.close()
    wait_until_idle(packaged)


def test_leaving_a_request_with_many_choices_frees_all_of_them(packaged: Server) -> None:
    connection = post(packaged, long_chat(stream=True, n=3))
    assert connection.recv(10)
    connection.close()
    wait_until_idle(packaged)
    answer = requests.post(
        f"{packaged.base_url}/chat/completions", json=long_chat(max_tokens=3), timeout=60
    )
    assert answer.status_code == 200
