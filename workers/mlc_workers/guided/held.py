"""Requests that wait for their grammar while the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Protocol

from msgspec import Struct

from mlc_llm.errors import BadRequest, EngineFault, MLCError
from mlc_llm.ipc.wakeup import Wakeup
from mlc_llm.protocol.generation import Grammar
from mlc_workers.guided.service import Compiled
from mlc_workers.request import Request

PATIENCE_S = 30.0
"""A grammar that is not ready after this long fails the requests that wait for it."""


class Grammars(Protocol):
    """Where compiled grammars come from (see `mlc_workers.guided.service`)."""

    @property
    def wakeup(self) -> Wakeup:
        """Set when a grammar is ready."""
        ...

    def ask(self, grammar: Grammar) -> Future[Compiled]:
        """The grammar, now or later. Raises Overloaded."""
        ...

    def forget(self, grammar: Grammar) -> None:
        """Compile it anew for the next who asks: what was learnt along it has become too much."""
        ...


class _Waiting(Struct, frozen=True):
    request: Request
    future: Future[Compiled]
    deadline: float


class Held:
    """In order of arrival. Requests that have ended meanwhile are forgotten."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: Request, future: Future[Compiled], now: float) -> None:
        """Hold a request, at most `PATIENCE_S` long."""
        request.hold()
        self._waiting.append(_Waiting(request, future, now + PATIENCE_S))

    def take(self, now: float) -> Iterator[tuple[Request, Compiled | MLCError]]:
        """The requests whose waiting is over, with their grammar or what is wrong with it."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if one.request.is_finished:
                continue
            outcome = _outcome(one, now)
            if outcome is None:
                self._waiting.append(one)
            else:
                yield one.request, outcome


def _outcome(one: _Waiting, now: float) -> Compiled | MLCError | None:
    if not one.future.done():
        if now < one.deadline:
            return None
        grammar = one.request.generation.grammar
        param = None if grammar is None else grammar.param
        return BadRequest(
            f"`{param}` took longer than {PATIENCE_S:g} seconds to compile; simplify it.",
            param=param,
        )
    error = one.future.exception()
    if error is None:
        return one.future.result()
    if isinstance(error, MLCError):
        return error
    return EngineFault(f"the grammar could not be compiled: {error}")
