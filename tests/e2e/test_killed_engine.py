"""The engine is killed: what was in flight fails typed, the server recovers, nothing leaks."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from support.server import Server

STORY = {
    "messages": [{"role": "user", "content": "Tell me a story."}],
    "max_tokens": 1500,
    "ignore_eos": True,
}


def test_a_killed_engine_fails_its_requests_and_comes_back() -> None:
    before = set(os.listdir("/dev/shm"))
    with Server() as server:
        url = f"{server.base_url}/chat/completions"
        with requests.post(url, json={**STORY, "stream": True}, stream=True, timeout=60) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith(b"data: ")
            server.engine().send_signal(signal.SIGKILL)
            events = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
        assert events[-1]["error"]["code"] == "engine_died"
        server.wait_for_health(200, 60)
        assert requests.post(url, json={**STORY, "max_tokens": 5}, timeout=60).status_code == 200
    assert set(os.listdir("/dev/shm")) <= before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV])
def test_an_engine_that_is_ended_in_any_way_never_ends_an_answer_as_if_it_were_whole(
    number: signal.Signals,
) -> None:
    with Server() as server, ThreadPoolExecutor(1) as pool:
        url, long = f"{server.base_url}/chat/completions", {**STORY, "n": 32}
        body = {**long, "stream": True}
        with requests.post(url, json=body, stream=True, timeout=60) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith(b"data: ")
            alone = server.stats()["vllm:prompt_tokens_total"]
            whole = pool.submit(requests.post, url, json=long, timeout=60)
            while server.stats()["vllm:prompt_tokens_total"] < 2 * alone:
                pass
            server.engine().send_signal(number)
            events = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
        assert events[-1]["error"]["code"] in ("engine_unavailable", "engine_died")
        assert whole.result().status_code == 503
        assert whole.result().json()["error"]["code"] in ("engine_unavailable", "engine_died")
        server.wait_for_health(200, 60)


def test_health_is_503_while_no_engine_answers() -> None:
    with Server() as server:
        engine = server.engine()
        engine.send_signal(signal.SIGKILL)
        server.wait_for_health(503, 10)
        refused = requests.post(f"{server.base_url}/chat/completions", json=STORY, timeout=10)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] in ("engine_unavailable", "engine_died")
        server.wait_for_health(200, 60)


def test_a_killed_server_takes_its_engine_along() -> None:
    with Server() as server:
        engine = server.engine()
        assert server.process is not None
        server.process.kill()
        engine.wait(10)


def test_the_second_start_loads_the_library_that_the_first_one_compiled(tmp_path: Path) -> None:
    env = {"MLC_LLM_HOME": str(tmp_path)}
    with Server(env=env):
        pass
    compiled = {p: p.stat().st_ino for p in (tmp_path / "model_lib").glob("*.so")}
    assert compiled
    with Server(env=env):
        pass
    assert {p: p.stat().st_ino for p in (tmp_path / "model_lib").glob("*.so")} == compiled
