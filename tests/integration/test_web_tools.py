"""Endpoints beside chats and completions over a mock engine: what they say when it fails."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from mlc_api.text_tools import TextTools
from mlc_llm.errors import EngineDied, Overloaded
from mlc_llm.protocol.messages import PROTOCOL_VERSION, Finished, Ready, Submit
from mlc_llm.serve.request.prepare import ServedModel
from support import toy_tokenizers
from support.mock_client import Update, fails, says, says_then_waits
from support.web import WebServer

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 172, "num_hidden_layers": 1, "num_attention_heads": 8,
    "num_key_value_heads": 4, "vocab_size": 261, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


class Limits:
    """What the text side asks an engine."""

    ready = Ready(PROTOCOL_VERSION, 1, 261, 4, 4096, 256, 128)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> TextTools:
    folder: Path = tmp_path_factory.mktemp("toy")
    toy_tokenizers.write(folder, toy_tokenizers.byte_fallback([" Hello"]))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return TextTools(ServedModel.load(folder, "mock"), Limits())


@pytest.fixture
def web(tools: TextTools) -> Iterator[WebServer]:
    server = WebServer()
    server.served.tools = tools
    with server:
        yield server


def post(web: WebServer, path: str, **body: Any) -> requests.Response:
    return requests.post(web.url + path, json=body, timeout=10)


def events(answer: requests.Response) -> list[dict[str, Any]]:
    lines = [line for line in answer.text.splitlines() if line]
    names = [line.removeprefix("event: ") for line in lines[::2]]
    found = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert names == [event["type"] for event in found]
    return found


def test_a_response_says_what_the_engine_says_and_is_kept(web: WebServer) -> None:
    web.engine.script = says("Hel", "lo")
    answer = post(web, "/v1/responses", input="Hello").json()
    assert answer["output"][0]["content"][0]["text"] == "Hello"
    stored = requests.get(f"{web.url}/v1/responses/{answer['id']}", timeout=10)
    assert stored.json() == answer
    post(web, "/v1/responses", input="Hello", previous_response_id=answer["id"])
    first, second = web.engine.submitted
    assert len(second.prompt) > len(first.prompt)


@pytest.mark.parametrize("stream", [True, False])
def test_a_response_that_fails_early_is_a_plain_error(web: WebServer, stream: bool) -> None:
    web.engine.script = fails(Overloaded("Later."))
    answer = post(web, "/v1/responses", input="Hello", stream=stream)
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "Later.")


def test_a_stream_that_fails_late_ends_with_a_failed_response(web: WebServer) -> None:
    web.engine.script = fails(EngineDied("It died."), "Hel")
    last = events(post(web, "/v1/responses", input="Hello", stream=True))[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"]["message"] == "It died."
    name = last["response"]["id"]
    assert requests.get(f"{web.url}/v1/responses/{name}", timeout=10).status_code == 404


def test_a_reader_that_leaves_a_response_aborts_it(web: WebServer) -> None:
    web.engine.script = says_then_waits("Hel")
    body = {"input": "Hello", "stream": True}
    with requests.post(f"{web.url}/v1/responses", json=body, stream=True, timeout=10) as answer:
        next(answer.iter_lines())
    assert web.engine.was_closed.wait(10)
    assert web.engine.aborted == [web.engine.submitted[0].request_id]


def embeds(submit: Submit) -> Iterable[Update]:
    """As many numbers as the prompt has tokens."""
    count = len(submit.prompt) // 4
    vector = array("f", [1.0] * count).tobytes()
    yield Update([], [Finished(submit.request_id, count, 0, vector=vector)])


def test_vectors_come_in_the_order_of_the_inputs(web: WebServer) -> None:
    web.engine.script = embeds
    inputs = [[5] * n for n in range(1, 20)] * 20
    found = post(web, "/v1/embeddings", input=inputs, normalize=False).json()
    assert [len(entry["embedding"]) for entry in found["data"]] == [len(i) for i in inputs]
    assert len(web.engine.submitted) == len(inputs) == 380


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/embeddings", {"input": "Hello"}), ("/score", {"text_1": "a", "text_2": "b"})],
)
def test_an_engine_that_dies_is_a_503(web: WebServer, path: str, body: dict[str, Any]) -> None:
    web.engine.script = fails(EngineDied("It died."))
    answer = post(web, path, **body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_died")
    web.engine.script = says("x")  # as if it had been told to give up
    assert post(web, path, **body).status_code == 503
    counted = requests.get(web.url + "/metrics", timeout=10).text
    assert 'outcome="engine_died"' in counted
    assert 'outcome="engine_unavailable"' in counted
