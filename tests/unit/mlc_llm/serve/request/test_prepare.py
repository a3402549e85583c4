"""From requests to submits, on a toy model folder and on a real one."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import pytest

from mlc_llm.errors import BadModel, BadRequest, ModelNotFound, PromptTooLong
from mlc_llm.protocol.messages import PROTOCOL_VERSION, Ready, Submit
from mlc_llm.protocol.requests import ChatCompletionRequest, CompletionRequest, from_arguments
from mlc_llm.serve.parsers import Parsers
from mlc_llm.serve.request.model_name import check_model_name
from mlc_llm.serve.request.prepare import Prepared, ServedModel, prepare_chat, prepare_completion
from support.byte_model import READY, TEMPLATE, VOCAB, write_folder
from support.shared import shared_path


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    return ServedModel.load(write_folder(tmp_path / "toy", chat_template=TEMPLATE), "./dist/toy/")


def chat(served: ServedModel, *contents: Any, ready: Ready = READY, **fields: Any) -> Prepared:
    messages = [{"role": "user", "content": content} for content in contents]
    request = from_arguments(ChatCompletionRequest, {"messages": messages, **fields})
    return asyncio.run(prepare_chat(request, served, ready, "chatcmpl-1"))


def complete(model: ServedModel, prompt: Any, **fields: Any) -> Prepared:
    request = from_arguments(CompletionRequest, {"prompt": prompt, **fields})
    return asyncio.run(prepare_completion(request, model, READY, "cmpl-1"))


def ids(submit: Submit) -> list[int]:
    return list(struct.unpack(f"<{len(submit.prompt) // 4}i", submit.prompt))


def test_a_chat_is_rendered_and_tokenized_by_the_models_own_template(model: ServedModel) -> None:
    prepared = chat(model, [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}])
    assert [submit.request_id for submit in prepared.submits] == ["chatcmpl-1"]
    assert ids(prepared.submits[0]) == [1, 259]
    assert prepared.prompt_token_counts == (2,)
    assert prepared.submits[0].generation.stop_token_ids == (2,)


def test_who_serves_a_model_is_told_how_its_chats_are_written_and_read(tmp_path: Path) -> None:
    def told(name: str, template: str | None, parsers: Parsers) -> str:
        folder = write_folder(tmp_path / name, chat_template=template)
        (sentence,) = ServedModel.load(folder, "toy", parsers).decisions
        return sentence

    own = told("own", TEMPLATE, Parsers(tool_call="pythonic", reasoning="think"))
    assert own == (
        "chat template: the model's own; calls of tools are read as pythonic, thoughts as think"
    )
    none = told("none", None, Parsers())
    assert none.startswith("chat template: none in the folder, so one line per message")
    assert none.endswith("; calls of tools are read as hermes")


def test_a_plain_prompt_begins_as_the_tokenizer_begins_texts(model: ServedModel) -> None:
    assert ids(complete(model, "Hello").submits[0]) == [1, 259]
    assert ids(complete(model, "<s>Hello").submits[0])[:2] != [1, 1]
    assert ids(complete(model, [259]).submits[0]) == [259]


def test_a_tokenizer_config_may_say_that_prompts_begin_with_their_text(tmp_path: Path) -> None:
    model = ServedModel.load(write_folder(tmp_path / "toy", add_bos_token=False), "toy")
    assert ids(complete(model, "Hello").submits[0]) == [259]


def test_several_prompts_are_several_submits_of_one_answer(model: ServedModel) -> None:
    prepared = complete(model, ["Hello", "HelloHello"], n=2, echo=True, stream=True)
    assert [submit.request_id for submit in prepared.submits] == ["cmpl-1-0", "cmpl-1-1"]
    assert prepared.answer.request_ids == ("cmpl-1-0", "cmpl-1-1")
    assert prepared.answer.echo == ("Hello", "HelloHello")
    assert (prepared.answer.n, prepared.stream) == (2, True)


def test_an_echo_of_token_ids_is_their_text(model: ServedModel) -> None:
    assert complete(model, [[260], [259]], echo=True).answer.echo == ("Hello", "Hello")


def test_the_answer_says_what_the_request_said(model: ServedModel) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}, "logprobs": True}
    answer = chat(model, "Hello", model="toy", **options).answer
    assert (answer.id, answer.model, answer.include_usage, answer.logprobs) == (
        "chatcmpl-1",
        "toy",
        True,
        True,
    )
    assert chat(model, "Hello").answer.model == "./dist/toy/"


@pytest.mark.parametrize("name", [None, "", "./dist/toy/", "./dist/toy", "toy"])
def test_the_served_name_and_its_last_part_are_known(model: ServedModel, name: Any) -> None:
    chat(model, "Hello", model=name)


@pytest.mark.parametrize("name", ["toy", "toy.gguf", "/m/toy.gguf"])
def test_a_gguf_file_is_known_without_its_suffix(name: str) -> None:
    check_model_name(name, "/m/toy.gguf")


@pytest.mark.parametrize("name", ["other", "dist", "to"])
def test_any_other_name_is_not_found(model: ServedModel, name: str) -> None:
    with pytest.raises(ModelNotFound, match="dist/toy") as caught:
        chat(model, "Hello", model=name)
    assert (caught.value.status_code, caught.value.param) == (404, "model")


def test_the_longest_prompt_leaves_room_for_one_token(model: ServedModel) -> None:
    assert len(ids(complete(model, [5] * 31).submits[0])) == 31
    with pytest.raises(
        PromptTooLong, match="32 tokens; the prompt is too long: it has 32"
    ) as caught:
        complete(model, [5] * 32)
    assert caught.value.param == "prompt"


def test_a_text_that_cannot_fit_is_refused_unread(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlc_llm.tokenizers.tokenizer.Tokenizer.encode", pytest.fail)
    with pytest.raises(PromptTooLong, match="prompt is too long") as caught:
        complete(model, "a" * 10_000_000)
    assert caught.value.param == "prompt"
    with pytest.raises(PromptTooLong) as caught:
        chat(model, *["é" * 600] * 2)
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "prompt",
    ["", [], [""], [[]], [-1], [VOCAB], [2**70], [[1], [VOCAB]], ["a", [1]], [1, "a"], [1, [2]]],
)
def test_a_prompt_that_is_none_is_refused(model: ServedModel, prompt: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        complete(model, prompt)
    assert caught.value.param == "prompt"


def test_too_many_prompts_are_refused(model: ServedModel) -> None:
    with pytest.raises(BadRequest, match="1024"):
        complete(model, ["a"] * 1025)
    with pytest.raises(BadRequest, match="2048") as caught:
        complete(model, ["a"] * 1000, n=4)
    assert caught.value.param == "n"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "wizard", "content": "x"}, "messages.0.role"),
        ({"role": "user", "content": None}, "messages.0.content"),
        ({"role": "user", "content": "\ud800"}, "messages"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages.0.content.0"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages.0.content.0.text"),
    ],
)
def test_a_message_that_cannot_be_read_is_refused_by_its_path(
    model: ServedModel, message: dict[str, Any], param: str
) -> None:
    request = from_arguments(ChatCompletionRequest, {"messages": [message]})
    with pytest.raises(BadRequest) as caught:
        asyncio.run(prepare_chat(request, model, READY, "r"))
    assert caught.value.param == param


def test_tokens_that_the_model_does_not_have_are_refused(model: ServedModel) -> None:
    small = Ready(PROTOCOL_VERSION, 1, 259, 4, 4096, 32, 128)
    with pytest.raises(BadRequest, match="0 to 258"):
        chat(model, "Hello", ready=small)


def test_a_model_without_a_template_still_chats(tmp_path: Path) -> None:
    model = ServedModel.load(write_folder(tmp_path / "toy"), "toy")
    prepared = chat(model, "Hello")
    assert prepared.submits[0].generation.stop_strs == ("\nuser:",)
    expected = [1, *model.tokenizer.encode("user: Hello\nassistant:")]
    assert ids(prepared.submits[0]) == expected


def test_a_broken_tokenizer_is_a_bad_model(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "toy")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(BadModel, match=r"tokenizer\.json"):
        ServedModel.load(folder, "toy")


def test_a_long_text_is_tokenized_as_a_short_one_is(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Hello, <s> \u65e5\u672c" * 20
    short = model.tokenizer.encode(text)
    monkeypatch.setattr("mlc_llm.tokenizers.tokenizer.LONG_TEXT", 1)
    assert asyncio.run(model.tokenizer.encode_off_loop(text)) == short


def test_other_tasks_run_while_many_short_texts_are_tokenized(model: ServedModel) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def prepare() -> None:
        other = asyncio.create_task(count())
        request = from_arguments(CompletionRequest, {"prompt": ["Hello"] * 500})
        await prepare_completion(request, model, READY, "cmpl-1")
        other.cancel()

    asyncio.run(prepare())
    assert turns >= 500


def test_a_real_base_model_begins_stories_with_its_bos() -> None:
    model = ServedModel.load(shared_path("data/models/stories260K-hf"), "stories260K")
    ready = Ready(PROTOCOL_VERSION, 1, 512, 4, 4096, 512, 128)
    request = from_arguments(CompletionRequest, {"prompt": "Once upon a time"})
    prepared = asyncio.run(prepare_completion(request, model, ready, "r"))
    assert ids(prepared.submits[0]) == [1, 403, 407, 261, 378]


def test_a_prompt_begins_with_the_first_token_when_it_is_to(model: ServedModel) -> None:
    assert ids(complete(model, "Hello", add_special_tokens=False).submits[0]) == [259]
    plain = chat(model, "Hello", chat_template_kwargs={"bos_token": "ignored"})
    assert ids(plain.submits[0])[0] == 1
    assert ids(chat(model, "Hello", add_special_tokens=True).submits[0])[:2] == [1, 259]


def test_a_truncated_prompt_fits_and_is_echoed_as_it_is(model: ServedModel) -> None:
    prepared = complete(model, [5] * 40, truncate_prompt_tokens=-1)
    assert len(ids(prepared.submits[0])) == 31
    prepared = complete(model, "Hello!", truncate_prompt_tokens=1, echo=True)
    assert ids(prepared.submits[0]) == [3 + ord("!")]
    assert prepared.answer.echo == ("!",)


def test_the_best_of_several_is_ranked_by_log_probabilities(model: ServedModel) -> None:
    prepared = complete(model, "Hello", n=2, best_of=3)
    generation = prepared.submits[0].generation
    assert (generation.n, generation.logprobs) == (3, True)
    answer = prepared.answer
    assert (answer.n, answer.shown, answer.logprobs) == (3, 2, False)


def test_a_suffix_without_tokens_for_it_is_refused(model: ServedModel) -> None:
    with pytest.raises(BadRequest) as caught:
        complete(model, "Hello", suffix="Hello")
    assert caught.value.param == "suffix"
