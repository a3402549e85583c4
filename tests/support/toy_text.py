"""A text side without tokenizer and template: a prompt is numbers, which are its token ids."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import Submit
from mlc_llm.protocol.requests import ChatCompletionRequest, CompletionRequest
from mlc_llm.serve.answer.delta import Answer


class Prepared(NamedTuple):
    """A request that may go to the engine."""

    submits: tuple[Submit, ...]
    answer: Answer


class ToyText:
    """Makes requests for the fake engine, which says every token of the prompt once."""

    async def chat(self, request: ChatCompletionRequest, request_id: str) -> Prepared:
        """The prompt is the last message, a blank-separated list of numbers."""
        content = request.messages[-1].content
        if not isinstance(content, str):
            raise BadRequest("content must be text", param="messages")
        return self._prepared(request, request_id, [list(map(int, content.split()))])

    async def completion(self, request: CompletionRequest, request_id: str) -> Prepared:
        """The prompt is a list of token ids, or several."""
        prompt: Any = request.prompt
        prompts: list[list[int]] = [prompt] if isinstance(prompt[0], int) else prompt
        return self._prepared(request, request_id, prompts)

    def _prepared(
        self,
        request: ChatCompletionRequest | CompletionRequest,
        name: str,
        prompts: Sequence[Sequence[int]],
    ) -> Prepared:
        request_ids = tuple(f"{name}-{i}" for i in range(len(prompts)))
        generation = GenerationConfig(
            n=request.n or 1,
            max_tokens=request.max_tokens or -1,
            ignore_eos=bool(request.ignore_eos),
            logprobs=bool(request.logprobs),
        )
        submits = tuple(
            Submit(each, struct.pack(f"<{len(tokens)}i", *tokens), generation, time.time())
            for each, tokens in zip(request_ids, prompts, strict=True)
        )
        options = request.stream_options
        answer = Answer(
            id=name,
            model=request.model or "toy",
            created=int(time.time()),
            request_ids=request_ids,
            n=generation.n,
            logprobs=generation.logprobs,
            include_usage=bool(options and options.include_usage),
            with_extra=True,
        )
        return Prepared(submits, answer)
