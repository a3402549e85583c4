"""The REST API over a mock engine: the openai package, documented loops, errors, key, CORS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from mlc_llm.errors import (
    DuplicateRequest,
    EngineDied,
    EngineFault,
    MLCError,
    Overloaded,
    PromptTooLong,
)
from support.mock_client import MockEngine, fails, says
from support.web import WebServer

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
TEXTS = ("Hé", "llo ", "\u2028", '"', "\U0001f600", "\n")
WHOLE = "".join(TEXTS)


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    with WebServer(MockEngine(says(*TEXTS)), enable_debug=True) as server:
        yield server


@pytest.fixture
def client(web: WebServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=web.url + "/v1", api_key="-", max_retries=0) as found:
        yield found


def post(web: WebServer, path: str, **body: Any) -> requests.Response:
    return requests.post(f"{web.url}{path}", json=body, timeout=10)


def test_a_whole_chat_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="mock", messages=MESSAGES, n=2)
    assert [c.message.content for c in answer.choices] == [WHOLE, WHOLE]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2 * len(TEXTS)


def test_a_streamed_chat_answer(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="mock", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == WHOLE
    assert [c.choices[0].delta.role for c in chunks if c.choices][:2] == ["assistant", None]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None


def test_a_streamed_answer_of_several_choices(client: openai.OpenAI) -> None:
    texts = ["", ""]
    for chunk in client.chat.completions.create(model="mock", messages=MESSAGES, stream=True, n=2):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [WHOLE, WHOLE]


def test_completions_of_many_prompts_whole_and_streamed(client: openai.OpenAI) -> None:
    prompts = ["one", "two"]
    whole = client.completions.create(model="mock", prompt=prompts, n=2, echo=True)
    texts = [""] * 4
    for chunk in client.completions.create(
        model="mock", prompt=prompts, n=2, echo=True, stream=True
    ):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert (
        texts
        == [c.text for c in whole.choices]
        == [p + WHOLE for p in ("one", "one", "two", "two")]
    )


def test_the_documented_loop_over_http_chunks(web: WebServer) -> None:
    text = ""
    body = {"model": "mock", "messages": MESSAGES, "stream": True}
    with requests.post(web.url + "/v1/chat/completions", json=body, stream=True, timeout=10) as r:
        for chunk in r.iter_content(chunk_size=None):
            chunk = chunk.decode("utf-8")
            if "[DONE]" in chunk[6:]:
                break
            response = json.loads(chunk[6:])
            text += response["choices"][0]["delta"].get("content", "")
    assert text == WHOLE


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["mock"]
    assert client.models.retrieve("mock").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


@pytest.mark.parametrize("model_id", ["./dist/Llama-2", "/abs/model", "HF://mlc-ai/x", "a b%2F"])
def test_a_model_whose_id_is_a_path_is_found(model_id: str) -> None:
    with (
        WebServer(model_id=model_id) as web,
        openai.OpenAI(base_url=web.url + "/v1", api_key="-", max_retries=0) as client,
    ):
        assert client.models.retrieve(model_id).id == model_id
        assert client.models.retrieve(Path(model_id).name).id == model_id


def check(answer: requests.Response, status: int, code: str | None) -> None:
    body = answer.json()
    assert (answer.status_code, body["error"]["code"]) == (status, code)
    assert body["error"]["message"] == body["message"]
    assert body["object"] == "error"
    assert body["code"] == status
    assert set(body["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PromptTooLong("p"), 400),
        (DuplicateRequest("d"), 409),
        (Overloaded("o"), 503),
        (EngineDied("e"), 503),
        (EngineFault("f"), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, MLCError) else "",
)
def test_an_error_before_the_first_token_is_an_http_error(
    error: MLCError, status: int, stream: bool
) -> None:
    with WebServer(MockEngine(fails(error))) as web:
        answer = post(web, "/v1/chat/completions", messages=MESSAGES, stream=stream)
        check(answer, status, error.code)
        assert ("retry-after" in answer.headers) == (status == 503)


def test_an_error_in_mid_stream_is_an_event_and_the_end() -> None:
    with WebServer(MockEngine(fails(EngineDied("It died."), "a"))) as web:
        answer = post(web, "/v1/chat/completions", messages=MESSAGES, stream=True)
        events = [json.loads(e[6:]) for e in answer.text.split("\n\n") if e]
        assert events[-1]["error"]["code"] == "engine_died"
        assert len(events) == 2
        with (
            openai.OpenAI(base_url=web.url + "/v1", api_key="-", max_retries=0) as client,
            pytest.raises(openai.APIError, match="It died"),
        ):
            list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/debug/dump_event_trace", 400, None),
        ("GET", "/v1/models/../../etc/passwd", 404, "not_found"),
        ("GET", "/%2e%2e/%00", 404, "not_found"),
    ],
)
def test_every_http_error_has_the_body(
    web: WebServer, method: str, path: str, status: int, code: str
) -> None:
    check(requests.request(method, web.url + path, json={}, timeout=10), status, code)


def test_a_bug_is_a_500_without_its_traceback(
    monkeypatch: pytest.MonkeyPatch, web: WebServer, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(web.engine, "open", lambda submits: 1 / 0)
    answer = post(web, "/v1/chat/completions", messages=MESSAGES)
    check(answer, 500, "internal_error")
    assert "division" not in answer.text
    assert "ZeroDivisionError" in caplog.text


def test_a_model_s_context_is_told_once_it_is_known() -> None:
    with WebServer() as web:
        for path in ("/v1/models/mock", "/v1/models"):
            told = requests.get(web.url + path, timeout=10).json()
            assert told.get("data", [told])[0]["max_model_len"] == 256
        web.engine.problem = "The engine is starting."
        assert "max_model_len" not in requests.get(web.url + "/v1/models/mock", timeout=10).json()


def test_health_says_why_not() -> None:
    with WebServer() as web:
        assert requests.get(web.url + "/health", timeout=10).json() == {"status": "ok"}
        web.engine.problem = "The engine is starting."
        for path in ("/health", "/ready", "/ping"):
            answer = requests.get(web.url + path, timeout=10)
            assert answer.status_code == 503
            assert answer.json()["reason"] == "The engine is starting."
        check(post(web, "/v1/completions", prompt="a"), 503, "engine_unavailable")


@pytest.mark.parametrize(
    "path",
    ["/v1/models", "/v1/models/mock", "//v1/models", "/v1/models/", "/debug/reset_engine"],
)
def test_a_key_is_asked_for(path: str) -> None:
    with WebServer(api_keys=("Sésame", "other"), enable_debug=True) as web:
        method = "POST" if "debug" in path else "GET"
        for header in (None, "Sésame", "Bearer sésame", "Bearer", "Basic Sésame", "Bearer Sésamee"):
            headers = {"Authorization": header.encode()} if header else {}
            answer = requests.request(method, web.url + path, headers=headers, timeout=10)
            check(answer, 401, "invalid_api_key")
        for key in ("Sésame", "other"):
            headers = {"Authorization": f"Bearer {key}".encode()}
            assert requests.request(method, web.url + path, headers=headers, timeout=10).ok


def test_a_key_may_stand_in_a_header_of_its_own_where_there_is_no_other() -> None:
    with WebServer(api_keys=("k",)) as web:
        for headers, status in [
            ({"X-Api-Key": "k"}, 200),
            ({"x-api-key": "wrong"}, 401),
            ({"X-Api-Key": "Bearer k"}, 401),
            ({"X-Api-Key": ""}, 401),
            ({"X-Api-Key": "k", "Authorization": "Bearer wrong"}, 401),
            ({"X-Api-Key": "wrong", "Authorization": "Bearer k"}, 200),
        ]:
            answer = requests.get(web.url + "/v1/models", headers=headers, timeout=10)
            assert answer.status_code == status, headers


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/completion", "/v1/completions"),
        ("/debug/reset_engine", "--enable-debug"),
        ("/api/chat", "under /v1"),
        ("/v1/nothing", "GET /docs"),
    ],
)
def test_a_path_of_another_server_is_told_where_to_go(path: str, hint: str) -> None:
    with WebServer() as plain:
        answer = post(plain, path)
    check(answer, 404, "not_found")
    assert hint in answer.json()["error"]["message"]


def test_what_is_open_needs_no_key() -> None:
    with WebServer(api_keys=("k",)) as web:
        for path in ("/health", "/ready", "/ping"):
            assert requests.get(web.url + path, timeout=10).status_code == 200
        assert requests.post(web.url + "/ping", timeout=10).status_code == 200
        for path in ("/metrics", "/docs", "/", "/redoc", "/openapi.json", "/version"):
            check(requests.get(web.url + path, timeout=10), 401, "invalid_api_key")
        answer = post(web, "/v1/chat/completions", messages=MESSAGES)
        check(answer, 401, "invalid_api_key")


def test_a_browser_may_call_from_anywhere_by_default(web: WebServer) -> None:
    origin = {"Origin": "http://a.example"}
    plain = requests.get(web.url + "/v1/models", headers=origin, timeout=10)
    assert plain.headers["access-control-allow-origin"] == "*"
    failed = requests.get(web.url + "/nowhere", headers=origin, timeout=10)
    assert failed.headers["access-control-allow-origin"] == "*"
    asked = {**origin, "Access-Control-Request-Method": "POST"}
    preflight = requests.options(web.url + "/v1/chat/completions", headers=asked, timeout=10)
    assert preflight.status_code == 204


def test_metrics_count_what_happened() -> None:
    with WebServer() as web:
        post(web, "/v1/chat/completions", messages=MESSAGES, stream=True)
        post(web, "/v1/completions", prompt="a")
        text = requests.get(web.url + "/metrics", timeout=10).text
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    labels = 'model_name="mock",engine="0"'
    assert samples[f"vllm:time_to_first_token_seconds_count{{{labels}}}"] == "2"
    assert samples[f"vllm:e2e_request_latency_seconds_count{{{labels}}}"] == "2"
    assert samples[f"vllm:kv_cache_usage_perc{{{labels}}}"] == "0.6"
    assert samples[f'mlc_llm:answers_total{{{labels},endpoint="chat",outcome="ok"}}'] == "1"
    assert samples[f"mlc_llm:open_answers{{{labels}}}"] == "0"


def test_the_document_and_its_page_need_nothing_from_elsewhere(web: WebServer) -> None:
    spec = requests.get(web.url + "/openapi.json", timeout=10).json()
    assert "/v1/chat/completions" in spec["paths"]
    refs = {part.split('"')[0] for part in json.dumps(spec).split("#/components/schemas/")[1:]}
    assert refs <= set(spec["components"]["schemas"])
    page = requests.get(web.url + "/docs", timeout=10).text
    assert "//" not in page.replace("HF://", "")
    assert "ChatCompletionRequest" in page


def test_debug_routes_exist_only_when_asked_for(web: WebServer) -> None:
    body = {"model": "mock"}
    assert post(web, "/debug/reset_engine", **body).text == "null"
    assert web.engine.num_resets == 1
    metrics = post(web, "/debug/dump_engine_metrics", **body).json()["metrics"]
    assert metrics["kv_pages_total"] == 10
    assert metrics["prompt_tokens_sum"] == metrics["prompt_tokens_total"]
    with WebServer() as plain:
        assert post(plain, "/debug/reset_engine").status_code == 404
    with WebServer(enable_debug=True, enable_tracing=True) as traced:
        assert post(traced, "/debug/dump_event_trace", **body).json() == []
