"""From a request to what the engine is asked: checked, rendered, tokenized, defaults filled in.

Everything that can be wrong with a request is found here, before it costs the engine anything.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from mlc_llm.conversation_template.choose import choose_template, whose
from mlc_llm.conversation_template.prompt import ChatTemplate, Piece
from mlc_llm.errors import BadModel, BadRequest, PromptTooLong
from mlc_llm.models.folder import ModelFolder, open_folder
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import Ready, Submit
from mlc_llm.protocol.requests import ChatCompletionRequest, CompletionRequest
from mlc_llm.serve.answer.delta import Answer
from mlc_llm.serve.parsers import DEFAULT_PARSERS, Parsers
from mlc_llm.serve.request.fields import truncated, with_suffix
from mlc_llm.serve.request.model_name import check_model_name
from mlc_llm.serve.request.reading import Formats, formats_of, held_to, with_held
from mlc_llm.serve.request.rendering import render
from mlc_llm.serve.request.tools import ToolUse, tool_use
from mlc_llm.serve.request.validate import check_chat, check_token, generation_config
from mlc_llm.tokenizers.tokenizer import Tokenizer, check_text

MAX_PROMPTS = 1024
MAX_TOTAL_CHOICES = 2048
"""Prompts times n."""
MAX_READINGS = 1 << 20
"""Log-probabilities that one answer reports of its prompts."""
PROMPT_END = 256
"""Characters at the end of a prompt that may say where the answer begins."""


class ServedModel(Struct, frozen=True):
    """The text side of a model: all that is needed to turn requests into token ids."""

    name: str
    """What users call it."""
    folder: ModelFolder
    tokenizer: Tokenizer
    template: ChatTemplate
    formats: Formats

    @classmethod
    def load(cls, path: Path, name: str, parsers: Parsers = DEFAULT_PARSERS) -> ServedModel:
        """Open the model folder at `path`. Raises BadModel, BadConfig for unknown parsers."""
        folder = open_folder(path)
        tokenizer = Tokenizer.load(path, folder.tokenizer_config, folder.bos_token_id)
        if tokenizer.base_size > folder.architecture.vocab_size:
            raise BadModel(
                f"{path / 'tokenizer.json'}: has {tokenizer.base_size} tokens but the model only "
                f"{folder.architecture.vocab_size}; it belongs to another model"
            )
        template = choose_template(folder, tokenizer.bos_token_id)
        outside = [i for i in template.stop_token_ids if i >= folder.architecture.vocab_size]
        if outside:
            raise BadModel(f"{path}: conv_template stops at tokens {outside}, which do not exist.")
        formats = formats_of(folder, parsers, has_place=template.writes_tools)
        return cls(name, folder, tokenizer, template, formats)

    @property
    def decisions(self) -> tuple[str, ...]:
        """How chats will be written and read, one sentence each, as `Ready.decisions`."""
        if self.folder.architecture.encoder:
            return ()
        formats = self.formats
        thoughts = "" if formats.thoughts is None else f", thoughts as {formats.thoughts.name}"
        read = f"calls of tools are read as {formats.tools.name}{thoughts}"
        return (f"chat template: {whose(self.template)}; {read}",)

    def check_generates(self) -> None:
        """Raises BadRequest when this model cannot write."""
        if self.folder.architecture.encoder:
            raise BadRequest(
                f"{self.name} only makes embeddings; send its texts to /v1/embeddings.",
                param="model",
            )

    def check_name(self, model: str | None) -> None:
        """Accept what this model answers to. Raises ModelNotFound."""
        check_model_name(model, self.name)


class Prepared(Struct, frozen=True):
    """A request that has passed every check."""

    request_id: str
    submits: tuple[Submit, ...]
    """One per prompt, in the order of the prompts."""
    answer: Answer
    """What the answer needs to know of the request: its names, n, echo, what to report."""
    stream: bool
    prompt_token_counts: tuple[int, ...]


async def prepare_chat(
    request: ChatCompletionRequest,
    model: ServedModel,
    ready: Ready,
    request_id: str,
    *,
    with_extra: bool = False,
) -> Prepared:
    """Raises BadRequest, ModelNotFound or PromptTooLong; changes nothing."""
    model.check_name(request.model)
    model.check_generates()
    check_chat(request)
    uses = tool_use(request)
    generation = _generation(request, model, ready)
    ids, prompt_end = await _chat_prompt(request, uses, model, ready)
    check_fit(ids, ready, "messages")
    content, shown = generation.grammar, generation.shown_tokens
    held = held_to(request, model.formats, uses, prompt_end, model.tokenizer, content, shown)
    generation = with_held(generation, held)
    prepared = _prepared(request, model, request_id, generation, [ids], (), with_extra=with_extra)
    return replace(prepared, answer=replace(prepared.answer, reading=held.reading))


async def prepare_completion(
    request: CompletionRequest,
    model: ServedModel,
    ready: Ready,
    request_id: str,
    *,
    with_extra: bool = False,
) -> Prepared:
    """Raises BadRequest, ModelNotFound or PromptTooLong; changes nothing."""
    model.check_name(request.model)
    model.check_generates()
    generation = _generation(request, model, ready)
    prompts = prompts_of(request.prompt, "prompt", MAX_PROMPTS)
    if len(prompts) * generation.n > MAX_TOTAL_CHOICES:
        reason = f"`n` times the number of prompts must be at most {MAX_TOTAL_CHOICES}."
        raise BadRequest(reason, param="n")
    all_ids = [await _prompt_ids(prompt, request, model, ready) for prompt in prompts]
    echo: tuple[str, ...] = ()
    if request.echo:
        echo = tuple(
            prompt
            if isinstance(prompt, str) and request.truncate_prompt_tokens is None
            else model.tokenizer.decode(ids)
            for prompt, ids in zip(prompts, all_ids, strict=True)
        )
    return _prepared(request, model, request_id, generation, all_ids, echo, with_extra=with_extra)


def _generation(
    request: ChatCompletionRequest | CompletionRequest, model: ServedModel, ready: Ready
) -> GenerationConfig:
    """Both kinds of request end at the model's end tokens, chats at its template's strings too."""
    return generation_config(
        request,
        model.folder.defaults,
        ready,
        stop_strs=model.template.stop_strs if isinstance(request, ChatCompletionRequest) else (),
        stop_token_ids=(*model.folder.eos_token_ids, *model.template.stop_token_ids),
        special_tokens=model.tokenizer.special_tokens,
        encode=model.tokenizer.encode,
    )


async def chat_pieces(
    request: ChatCompletionRequest, model: ServedModel, ready: Ready
) -> list[Piece]:
    """What the chat template makes of the messages. Raises BadRequest."""
    check_chat(request)
    uses = tool_use(request)
    limit = ready.max_single_sequence_length
    return await asyncio.to_thread(render, request, model.template, uses, limit)


async def chat_ids(request: ChatCompletionRequest, model: ServedModel, ready: Ready) -> list[int]:
    """The prompt of a chat request. Raises BadRequest or PromptTooLong."""
    check_chat(request)
    ids, _ = await _chat_prompt(request, tool_use(request), model, ready)
    return ids


async def _chat_prompt(
    request: ChatCompletionRequest, uses: ToolUse | None, model: ServedModel, ready: Ready
) -> tuple[list[int], str]:
    """The prompt and the text at its end."""
    limit = ready.max_single_sequence_length

    def render_and_tokenize() -> tuple[list[int], str]:
        pieces = render(request, model.template, uses, limit)
        end = pieces[-1] if pieces else ""
        ids = _tokenized(pieces, model.tokenizer, limit)
        return ids, end[-PROMPT_END:] if isinstance(end, str) else ""

    # a template may take its time, whatever the length of the messages
    ids, end = await asyncio.to_thread(render_and_tokenize)
    begin = model.tokenizer.bos_token_id
    if request.add_special_tokens and begin is not None and ids[:1] != [begin]:
        ids = [begin, *ids]
    return list(truncated(ids, request.truncate_prompt_tokens, _room(ready))), end


def _tokenized(pieces: Sequence[Piece], tokenizer: Tokenizer, max_tokens: int) -> list[int]:
    ids: list[int] = []
    for piece in pieces:
        if isinstance(piece, int):
            ids.append(piece)
        else:
            check_text(piece, max_tokens, "messages")
            ids += tokenizer.encode(piece)
    return ids


def prompts_of(
    prompt: str | list[str | int | list[int]], param: str, most: int
) -> list[str | list[int]]:
    """The prompts of any of the four forms, one by one. Raises BadRequest naming `param`."""
    if isinstance(prompt, str):
        return [prompt]
    kind = type(prompt[0]) if prompt else None
    if kind is not int and len(prompt) > most:
        raise BadRequest(f"`{param}` must be at most {most} prompts.", param=param)
    if kind is None or set(map(type, prompt)) != {kind}:
        reason = f"`{param}` must be a text, a list of texts, or one or several lists of token ids."
        raise BadRequest(reason, param=param)
    return [prompt] if kind is int else prompt  # type: ignore[list-item, return-value]


async def _prompt_ids(
    prompt: str | list[int], request: CompletionRequest, model: ServedModel, ready: Ready
) -> list[int]:
    if not prompt:
        raise BadRequest("`prompt` must not be empty.", param="prompt")
    begin = None
    if isinstance(prompt, str):
        check_text(prompt, ready.max_single_sequence_length, "prompt")
        ids = await model.tokenizer.encode_off_loop(prompt)
        begin = model.tokenizer.bos_token_id if request.add_special_tokens is not False else None
    else:
        ids = list(truncated(prompt, request.truncate_prompt_tokens, _room(ready)))
        _check_length(ids, ready, "prompt")  # before its elements: there may be a million
        check_token(min(ids), ready, "prompt")
        check_token(max(ids), ready, "prompt")
    if request.suffix:
        check_text(request.suffix, ready.max_single_sequence_length, "suffix")
        end = await model.tokenizer.encode_off_loop(request.suffix)
        ids = with_suffix(ids, end, model.tokenizer.special_tokens)
    if begin is not None and ids[:1] != [begin]:
        ids = [begin, *ids]
    ids = list(truncated(ids, request.truncate_prompt_tokens, _room(ready)))
    check_fit(ids, ready, "prompt")
    return ids


def _room(ready: Ready) -> int:
    """Most tokens of a prompt: it must leave room for one more."""
    return ready.max_single_sequence_length - 1


def check_fit(ids: Sequence[int], ready: Ready, param: str) -> None:
    """There must be something to read, and room for one token more. Raises BadRequest."""
    _check_length(ids, ready, param)
    if not ids:
        raise BadRequest("The prompt has no tokens; send some text.", param=param)
    if max(ids) >= ready.vocab_size:  # the tokenizer may know more tokens than the model
        check_token(max(ids), ready, param)


def _check_length(ids: Sequence[int], ready: Ready, param: str) -> None:
    """Gateways know the sentence by its words: by those of OpenAI, or by "prompt is too long"."""
    most = _room(ready)
    if len(ids) > most:
        raise PromptTooLong(
            f"This model's maximum context length is {most + 1} tokens; the prompt is too long: it "
            f"has {len(ids)}, and the answer needs at least one.",
            param=param,
        )


def _check_readings(all_ids: Sequence[Sequence[int]], generation: GenerationConfig) -> None:
    """What is reported of the prompts must not grow beyond all memory."""
    per_token = 0 if generation.prompt_logprobs is None else 1 + generation.prompt_logprobs
    if per_token * sum(map(len, all_ids)) > MAX_READINGS:
        reason = "These are too many log-probabilities of prompts; ask for fewer alternatives."
        raise BadRequest(reason, param="prompt_logprobs")


def _prepared(
    request: ChatCompletionRequest | CompletionRequest,
    model: ServedModel,
    request_id: str,
    generation: GenerationConfig,
    all_ids: Sequence[Sequence[int]],
    echo: tuple[str, ...],
    *,
    with_extra: bool,
) -> Prepared:
    _check_readings(all_ids, generation)
    names = tuple(f"{request_id}-{index}" for index in range(len(all_ids)))
    if len(all_ids) == 1:
        names = (request_id,)
    now = time.time()
    options = request.stream_options
    answer = Answer(
        id=request_id,
        model=request.model or model.name,
        created=int(now),
        request_ids=names,
        n=generation.n,
        shown=request.n or 1,
        echo=echo,
        prompt_logprobs=request.prompt_logprobs is not None,
        logprobs=request.logprobs is not None and request.logprobs is not False,
        include_usage=bool(options and options.include_usage),
        with_extra=with_extra,
    )
    submits = tuple(
        Submit(name, struct.pack(f"<{len(ids)}i", *ids), generation, now)
        for name, ids in zip(names, all_ids, strict=True)
    )
    counts = tuple(len(ids) for ids in all_ids)
    return Prepared(request_id, submits, answer, bool(request.stream), counts)
