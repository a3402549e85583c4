"""Compiled grammars, made in threads of their own and kept for the next request that wants them.

What is kept is bounded in bytes; grammars that cannot be used are remembered as well. One thread
asks; it is woken when something is ready.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Protocol, TypeVar

from mlc_llm.errors import BadRequest, Overloaded
from mlc_llm.ipc.wakeup import Wakeup
from mlc_llm.protocol.generation import Grammar
from mlc_workers.request import Guide

COMPILER = "mlc_workers.guided.compiler:Compiler"
"""Loaded in a thread. It reads the tokenizer without letting other threads run."""

MAX_BYTES = 256 * 1024 * 1024
MAX_PENDING = 256
"""Grammars that may wait to be compiled."""
NUM_THREADS = 2
STACK_BYTES = 256 * 1024 * 1024
"""Address space, not memory: a chain of thousands of references is followed by recursion."""
REFUSAL_BYTES = 1024

T = TypeVar("T")


MAX_USES = 1000
"""A grammar is compiled anew after so many requests: what the library learns while it is followed,
by all of them together, is bounded, and would be used up at last."""


class Compiled(Protocol):
    """A grammar that is ready."""

    @property
    def num_bytes(self) -> int: ...
    def open(self, end_ids: frozenset[int]) -> Guide:
        """The guide of a new choice that ends at these tokens."""
        ...


class Compiler(Protocol):
    """What `mlc_workers.guided.compiler` has; raises BadRequest."""

    def compile(self, grammar: Grammar) -> Compiled: ...


Load = Callable[[], Compiler]


class _Kept:
    __slots__ = ("future", "uses")

    def __init__(self, future: Future[Compiled]) -> None:
        self.future = future
        self.uses = 0


class GrammarService:
    """Compiles every grammar once. All methods belong to one thread."""

    def __init__(self, load: Load, max_bytes: int = MAX_BYTES) -> None:
        self.wakeup = Wakeup.create()
        """Set when a grammar is ready."""
        self._load = load
        self._max_bytes = max_bytes
        self._compiler: Compiler | None = None
        self._loading = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pending: dict[Grammar, Future[Compiled]] = {}
        self._kept: OrderedDict[Grammar, _Kept] = OrderedDict()
        self.num_bytes = 0
        """What the kept grammars hold, estimated."""

    def prepare(self) -> None:
        """Load the compiler now, so that later nobody waits for it; what goes wrong is told to
        requests that ask for a grammar.

        In the thread that asks: the C library gives threads memory of their own, of which more
        stays unused when a tokenizer was read.
        """
        with suppress(BaseException):  # a panic of the library is no Exception
            self._ready()

    def ask(self, grammar: Grammar) -> Future[Compiled]:
        """The grammar, now or later. Raises Overloaded."""
        self._settle()
        kept = self._kept.get(grammar)
        if kept is not None:
            self._kept.move_to_end(grammar)
            kept.uses += 1
            if kept.uses > MAX_USES and kept.future.exception() is None:
                self._drop(grammar)
            return kept.future
        if grammar not in self._pending:
            if len(self._pending) >= MAX_PENDING:
                raise Overloaded("too many grammars wait to be compiled; try again later")
            future = self._run(partial(self._compile, grammar))
            self._pending[grammar] = future
            future.add_done_callback(lambda _: self.wakeup.notify())
        return self._pending[grammar]

    def forget(self, grammar: Grammar) -> None:
        """Compile it anew for the next who asks. Answers in progress go on with what they have."""
        self._settle()
        if grammar in self._kept:
            self._drop(grammar)

    def close(self) -> None:
        """Compile nothing more."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self.wakeup.close()

    def _run(self, work: Callable[[], T]) -> Future[T]:
        """Hand it to a thread; threads begin with their first work."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(NUM_THREADS, "grammar")
        usual = threading.stack_size(STACK_BYTES)
        try:
            return self._pool.submit(work)
        finally:
            threading.stack_size(usual)

    def _ready(self) -> None:
        with self._loading:
            if self._compiler is None:
                self._compiler = self._load()

    def _compile(self, grammar: Grammar) -> Compiled:
        self._ready()
        assert self._compiler is not None
        return self._compiler.compile(grammar)

    def _settle(self) -> None:
        """Keep what has become ready, and let go of what was not asked for longest."""
        for grammar in [grammar for grammar, future in self._pending.items() if future.done()]:
            future = self._pending.pop(grammar)
            if not isinstance(future.exception(), BadRequest | None):
                continue  # an accident: the next one may have more luck
            self._kept[grammar] = _Kept(future)
            self.num_bytes += _bytes_of(grammar, future)
        while self.num_bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, grammar: Grammar) -> None:
        self.num_bytes -= _bytes_of(grammar, self._kept.pop(grammar).future)


def loader(tokenizer: Path, vocab_size: int, eos_token_ids: Sequence[int]) -> Load:
    """How to make the compiler for a model, when it is wanted."""

    def load() -> Compiler:
        module, name = COMPILER.split(":")
        compiler: Compiler = getattr(import_module(module), name)(
            tokenizer, vocab_size, eos_token_ids
        )
        return compiler

    return load


def _bytes_of(grammar: Grammar, future: Future[Compiled]) -> int:
    refused = future.exception() is not None
    return REFUSAL_BYTES + len(grammar.text) if refused else future.result().num_bytes
