"""The openai package, unchanged, against the real server and the packaged model."""

from __future__ import annotations

import openai
import pytest

from support.server import Server

QUESTION = [{"role": "user", "content": "What is the capital of Norway?"}]


@pytest.fixture
def model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def test_a_chat_answer_has_text_usage_and_a_finish_reason(client, model) -> None:
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=40
    )
    assert "Oslo" in answer.choices[0].message.content
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_the_same_as_the_whole_answer(client, model) -> None:
    whole = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=40
    )
    chunks = list(
        client.chat.completions.create(
            model=model,
            messages=QUESTION,
            temperature=0,
            max_tokens=40,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({c.id for c in chunks}) == 1


def test_several_choices_differ_and_each_one_ends(client, model) -> None:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Tell me a story."}],
        n=3,
        seed=7,
        temperature=1.0,
        max_tokens=60,
    )
    texts = [c.message.content for c in answer.choices]
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert all(c.finish_reason in ("stop", "length") for c in answer.choices)


def test_the_same_seed_gives_the_same_text(client, model) -> None:
    def ask() -> str:
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Tell me a story."}],
            seed=11,
            temperature=1.0,
            max_tokens=60,
        )
        return answer.choices[0].message.content

    assert ask() == ask()


def test_completions_take_text_and_token_ids_one_and_many(client, model) -> None:
    one = client.completions.create(
        model=model, prompt="Once upon a time", temperature=0, max_tokens=8
    )
    many = client.completions.create(
        model=model, prompt=["Once upon a time", "One day,"], temperature=0, max_tokens=8
    )
    assert many.choices[0].text == one.choices[0].text
    assert [c.index for c in many.choices] == [0, 1]
    ids = client.completions.create(
        model=model, prompt=[5, 6, 7], max_tokens=4, extra_body={"ignore_eos": True}
    )
    assert ids.usage.prompt_tokens == 3
    assert ids.usage.completion_tokens == 4


def test_echo_puts_the_prompt_before_the_answer(client, model) -> None:
    answer = client.completions.create(
        model=model, prompt="One day,", echo=True, temperature=0, max_tokens=4
    )
    assert answer.choices[0].text.startswith("One day,")


def test_a_stop_string_ends_the_text_and_is_not_shown(client, model) -> None:
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, stop=["Oslo"], max_tokens=40
    )
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content.endswith("is ")


def test_max_completion_tokens_ends_with_length(client, model) -> None:
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_completion_tokens=3
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_logprobs_are_of_the_raw_distribution(client, model) -> None:
    def first(temperature: float):
        answer = client.chat.completions.create(
            model=model,
            messages=QUESTION,
            temperature=temperature,
            top_p=0.5,
            max_tokens=1,
            logprobs=True,
            top_logprobs=5,
        )
        return answer.choices[0].logprobs.content[0]

    greedy, warm = first(0), first(1.5)
    assert [t.logprob for t in greedy.top_logprobs] == [t.logprob for t in warm.top_logprobs]
    assert greedy.token == greedy.top_logprobs[0].token
    assert bytes(greedy.bytes).decode() == greedy.token
    assert len(greedy.top_logprobs) == 5


def test_logit_bias_forbids_and_forces_tokens(client, model) -> None:
    forced = client.completions.create(
        model=model, prompt="a", temperature=0, max_tokens=3, logit_bias={"70": 100}
    )
    plain = client.completions.create(model=model, prompt=[70, 70, 70], max_tokens=1, echo=True)
    assert plain.choices[0].text.startswith(forced.choices[0].text)


def test_ignore_eos_goes_on_to_the_length(client, model) -> None:
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=100, extra_body={"ignore_eos": True}
    )
    assert answer.usage.completion_tokens == 100
    assert answer.choices[0].finish_reason == "length"


def test_the_model_can_be_looked_up_by_its_id(client, model) -> None:
    assert client.models.retrieve(model).id == model


def test_an_unknown_model_is_not_found(client, packaged: Server) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-17", messages=QUESTION)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


def test_more_choices_than_the_engine_runs_at_once_take_turns(client, model) -> None:
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, n=9, temperature=0, max_tokens=40
    )
    assert [c.index for c in answer.choices] == list(range(9))
    assert {c.message.content for c in answer.choices} == {answer.choices[0].message.content}
