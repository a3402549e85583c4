"""An engine that is a script: what the web process needs of one, in its own process, modelless.

`MockEngine` looks like the engine client (`mlc_api.state.Engine`), `MockPreparer` like the text
side. The test chooses what an answer says; steps happen as fast as they are read.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import NamedTuple

from mlc_llm.errors import BadRequest, EngineUnavailable, MLCError
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import (
    PROTOCOL_VERSION,
    Delta,
    Finished,
    FinishReason,
    Ready,
    Stats,
    Submit,
)
from mlc_llm.protocol.requests import parse_chat, parse_completion
from mlc_llm.serve.answer.delta import Answer

Script = Callable[[Submit], Iterable["Update | MLCError | None"]]
"""The news of one request. An error ends it; None is a step without end: the request stays open."""


class Update(NamedTuple):
    """What the engine client calls news."""

    deltas: Sequence[Delta]
    finished: Sequence[Finished] = ()


def says(*texts: str, reason: FinishReason = FinishReason.STOP) -> Script:
    """Every choice says these texts, one per step, and ends."""

    def script(submit: Submit) -> Iterable[Update]:
        request_id, n = submit.request_id, submit.generation.n
        for text in texts:
            yield Update([Delta(request_id, i, text, 1) for i in range(n)])
        ends = [Delta(request_id, i, "", 0, reason) for i in range(n)]
        yield Update(ends, [Finished(request_id, len(submit.prompt) // 4, len(texts) * n)])

    return script


def says_then_waits(*texts: str) -> Script:
    """Every choice says these texts and then nothing more, until it is aborted."""

    def script(submit: Submit) -> Iterable[Update | None]:
        for text in texts:
            yield Update([Delta(submit.request_id, i, text, 1) for i in range(submit.generation.n)])
        yield None

    return script


def fails(error: MLCError, *texts: str) -> Script:
    """Every choice says these texts and then fails."""

    def script(submit: Submit) -> Iterable[Update | MLCError]:
        for text in texts:
            yield Update([Delta(submit.request_id, i, text, 1) for i in range(submit.generation.n)])
        yield error

    return script


class MockPrepared(NamedTuple):
    """What the text side calls prepared."""

    submits: Sequence[Submit]
    answer: Answer
    stream: bool


class MockStream:
    """The news of requests that were opened together, one after the other."""

    def __init__(self, engine: MockEngine, submits: Sequence[Submit]) -> None:
        self._engine = engine
        self._news = itertools.chain.from_iterable(engine.script(submit) for submit in submits)
        self._open = {submit.request_id for submit in submits}

    def __aiter__(self) -> AsyncIterator[Update]:
        return self

    async def __anext__(self) -> Update:
        await asyncio.sleep(0)
        news = next(self._news, StopAsyncIteration())
        if news is None:
            text = await self._engine.until_let_go()
            request_id = next(iter(self._open))
            self._open.clear()
            last = Delta(request_id, 0, text, 1, FinishReason.STOP)
            return Update([last], [Finished(request_id, 1, 1)])
        if isinstance(news, MLCError):
            self._open.clear()
        if isinstance(news, BaseException):
            raise news
        self._open.difference_update(end.request_id for end in news.finished)
        return news

    def close(self) -> None:
        self._engine.aborted.extend(sorted(self._open))
        self._open.clear()
        self._engine.was_closed.set()


READY = Ready(PROTOCOL_VERSION, 1, 300, 4, 4096, 256, 128)


class MockEngine:
    """Answers every request by `script`; remembers what was submitted and aborted."""

    def __init__(self, script: Script = says("Hello", " world")) -> None:
        self.script = script
        self.problem: str | None = None
        self.submitted: list[Submit] = []
        self.aborted: list[str] = []
        self.was_opened = threading.Event()
        self.was_closed = threading.Event()
        self.num_resets = 0
        self._lock = threading.Lock()
        self._last_text: str | None = None
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[str]]] = []

    @property
    def ready(self) -> Ready:
        if self.problem is not None:
            raise EngineUnavailable(self.problem)
        return READY

    def open(self, submits: Sequence[Submit]) -> MockStream:
        if self.problem is not None:
            raise EngineUnavailable(self.problem)
        self.submitted += submits
        self.was_opened.set()
        return MockStream(self, submits)

    async def until_let_go(self) -> str:
        """What a stream that waits does."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[str] = loop.create_future()
        with self._lock:
            if self._last_text is not None:
                return self._last_text
            self._waiting.append((loop, waiter))
        return await waiter

    def let_go(self, text: str) -> None:
        """From any thread: the streams that wait say `text` and end."""
        with self._lock:
            self._last_text = text
            for loop, waiter in self._waiting:
                loop.call_soon_threadsafe(waiter.set_result, text)

    async def stats(self) -> Stats:
        return Stats(num_running=1, kv_pages_total=10, kv_pages_free=4, kv_pages_cached=1)

    async def trace(self) -> bytes:
        return b"[]"

    async def reset(self) -> None:
        self.num_resets += 1


class MockPreparer:
    """Reads real bodies; a prompt's tokens are its UTF-8 bytes."""

    def __init__(self, model: str = "mock") -> None:
        self.model = model
        self._ids = itertools.count()

    async def chat(self, body: bytes) -> MockPrepared:
        request = parse_chat(body)
        if not request.messages:
            raise BadRequest("`messages` must not be empty.", param="messages")
        text = "".join(str(message.content) for message in request.messages)
        usage = request.stream_options is not None and bool(request.stream_options.include_usage)
        return self._prepared("chatcmpl", [text], request.n or 1, bool(request.stream), usage)

    async def completion(self, body: bytes) -> MockPrepared:
        request = parse_completion(body)
        prompts = (
            [request.prompt] if isinstance(request.prompt, str) else list(map(str, request.prompt))
        )
        usage = request.stream_options is not None and bool(request.stream_options.include_usage)
        return self._prepared(
            "cmpl", prompts, request.n or 1, bool(request.stream), usage, echo=bool(request.echo)
        )

    def _prepared(
        self,
        prefix: str,
        prompts: list[str],
        n: int,
        stream: bool,
        include_usage: bool,
        echo: bool = False,
    ) -> MockPrepared:
        number = next(self._ids)
        ids = tuple(f"{number}-{i}" for i in range(len(prompts)))
        submits = tuple(
            Submit(request_id, b"".join(byte.to_bytes(4, "little") for byte in text.encode()),
                   GenerationConfig(n=n))
            for request_id, text in zip(ids, prompts, strict=True)
        )  # fmt: skip
        answer = Answer(
            id=f"{prefix}-{number}",
            model=self.model,
            created=1_700_000_000,
            request_ids=ids,
            n=n,
            echo=tuple(prompts) if echo else (),
            include_usage=include_usage,
        )
        return MockPrepared(submits, answer, stream)
