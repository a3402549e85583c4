"""Time-outs, retries and refusals as the openai package sees them."""

from __future__ import annotations

import time
from typing import Any

import openai
import pytest

from mlc_llm.errors import EngineFault, Overloaded
from support.mock_client import MockEngine, fails, says, says_then_waits
from support.web import WebServer

CHAT: dict[str, Any] = {"model": "mock", "messages": [{"role": "user", "content": "hi"}]}
SECONDS = 10


def connect(web: WebServer, **settings: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{web.url}/v1", **{"api_key": "k", "max_retries": 0, **settings})


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_runs_out_of_time_aborts_its_request(stream: bool) -> None:
    with (
        WebServer(MockEngine(says_then_waits("a"))) as web,
        connect(web, timeout=0.2) as client,
    ):
        with pytest.raises(Exception, match="timed out"):
            list(client.chat.completions.create(**CHAT, stream=stream))
        assert web.engine.was_closed.wait(SECONDS)
        assert web.engine.aborted == [submit.request_id for submit in web.engine.submitted]


def test_a_busy_server_is_asked_again_when_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    with WebServer(MockEngine(fails(Overloaded("Full.")))) as web:

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            web.engine.script = says("Hello")

        with connect(web, max_retries=2) as client:
            monkeypatch.setattr(time, "sleep", sleep)
            answer = client.chat.completions.create(**CHAT)
            monkeypatch.undo()
    assert pauses == [1.0]
    assert answer.choices[0].message.content == "Hello"


@pytest.mark.parametrize(
    ("error", "kind"), [(EngineFault("Broken."), 500), (Overloaded("Full."), 503)]
)
def test_a_failing_server_is_a_server_error(error: Exception, kind: int) -> None:
    with WebServer(MockEngine(fails(error))) as web, connect(web) as client:  # type: ignore[arg-type]
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(**CHAT)
        assert caught.value.status_code == kind
        assert caught.value.code


def test_a_wrong_key_is_told() -> None:
    with WebServer(api_keys=("k",)) as web:
        with connect(web) as client:
            assert client.chat.completions.create(**CHAT).choices
        with connect(web, api_key="wrong") as client:
            for ask in (
                client.models.list,
                lambda: client.chat.completions.create(**CHAT, stream=True),
                lambda: client.completions.create(model="mock", prompt="a"),
            ):
                with pytest.raises(openai.AuthenticationError) as caught:
                    ask()
                assert caught.value.code == "invalid_api_key"


def test_a_method_that_is_not_served_is_not_found_or_not_allowed() -> None:
    with WebServer() as web, connect(web) as client:
        for ask in (
            lambda: client.images.generate(prompt="a", model="x"),
            lambda: client.moderations.create(input="a"),
            lambda: client.files.list(),
            lambda: client.models.delete("mock"),
            lambda: client.chat.completions.list(),
        ):
            with pytest.raises(openai.APIStatusError) as caught:
                ask()
            assert caught.value.status_code in (404, 405)
            assert caught.value.type == "invalid_request_error"
