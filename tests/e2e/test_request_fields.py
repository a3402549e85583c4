"""What vLLM's and OpenAI's clients send beside the common fields, on a running server."""

from __future__ import annotations

from typing import Any

import openai
import pytest
import requests

from mlc_llm import MLCEngine
from mlc_llm.errors import BadRequest
from support.server import Server


def complete(server: Server, **fields: Any) -> Any:
    body = {"prompt": "The capital of", "temperature": 0, "max_tokens": 12, **fields}
    answer = requests.post(f"{server.base_url}/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def text(server: Server, **fields: Any) -> str:
    return str(complete(server, **fields)["choices"][0]["text"])


def test_a_bad_word_is_not_written(packaged: Server) -> None:
    word = text(packaged).split()[0]
    assert word not in text(packaged, bad_words=[word]).split()


def test_only_allowed_tokens_are_written(packaged: Server) -> None:
    options = {"allowed_token_ids": [70, 71], "temperature": 1, "ignore_eos": True}
    shown = complete(packaged, **options, logprobs=0)["choices"][0]["logprobs"]["tokens"]
    assert len(shown) == 12
    assert len(set(shown)) <= 2


def test_the_stop_string_shows_when_it_is_to(packaged: Server) -> None:
    stop = text(packaged)[2:5]
    assert not text(packaged, stop=stop).endswith(stop)
    assert text(packaged, stop=stop, include_stop_str_in_output=True).endswith(stop)


def test_the_best_of_several_is_one(packaged: Server) -> None:
    answer = complete(packaged, best_of=3, temperature=1, seed=1, max_tokens=4, ignore_eos=True)
    assert len(answer["choices"]) == 1
    assert answer["usage"]["completion_tokens"] == 12


def test_an_answer_goes_on_from_the_assistants_message(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the capital of Norway?"}]
    options: dict[str, Any] = {"model": "packaged", "temperature": 0, "max_tokens": 20}
    whole = client.chat.completions.create(messages=messages, **options)
    content = whole.choices[0].message.content
    assert content
    begun = [*messages, {"role": "assistant", "content": "The capital of"}]
    rest = client.chat.completions.create(
        messages=begun, extra_body={"continue_final_message": True}, **options
    )
    assert content == f"The capital of{rest.choices[0].message.content}"


def test_usage_tells_what_was_cached_and_what_was_thought(client: openai.OpenAI) -> None:
    prompt = "A long prompt that is sent twice fills more than one page of sixteen tokens, surely."
    for _ in range(2):
        answer = client.completions.create(model="packaged", prompt=prompt, max_tokens=1)
    usage = answer.usage
    assert usage
    assert usage.prompt_tokens_details
    assert usage.prompt_tokens_details.cached_tokens
    assert usage.completion_tokens_details
    assert usage.completion_tokens_details.reasoning_tokens == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "."}, "suffix"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"bad_words": [""]}, "bad_words"),
        ({"allowed_token_ids": [10**6], "stream": True}, "allowed_token_ids"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_a_400_that_names_the_field(
    packaged: Server, fields: dict[str, Any], param: str
) -> None:
    body = {"prompt": "x", **fields}
    answer = requests.post(f"{packaged.base_url}/completions", json=body, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_python_has_the_same_keywords() -> None:
    with MLCEngine() as engine:
        read = engine.completions.create(
            prompt="The capital of", echo=True, logprobs=1, max_tokens=1, prompt_logprobs=2
        ).choices[0]
        assert read.logprobs is not None
        assert read.logprobs.token_logprobs[0] is None
        assert read.prompt_logprobs is not None
        assert len(read.prompt_logprobs) == len(read.logprobs.tokens) - 1
        whole = engine.completions.create(prompt="The capital of", temperature=0, max_tokens=8)
        word = whole.choices[0].text.split()[0]
        other = engine.completions.create(
            prompt="The capital of", temperature=0, max_tokens=8, bad_words=[word]
        )
        assert word not in other.choices[0].text.split()
        messages = [
            {"role": "user", "content": "What is the capital of Norway?"},
            {"role": "assistant", "content": "The capital of"},
        ]
        rest = engine.chat.completions.create(
            messages=messages, continue_final_message=True, temperature=0, max_tokens=10
        )
        assert rest.choices[0].message.content
        assert rest.choices[0].message.content.startswith(" ")
        with pytest.raises(BadRequest) as caught:
            engine.completions.create(prompt="x", suffix=".")
        assert caught.value.param == "suffix"
