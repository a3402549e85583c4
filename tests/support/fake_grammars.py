"""Grammars without a grammar library: a text that must be said, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from mlc_llm.ipc.wakeup import Wakeup
from mlc_llm.protocol.generation import Grammar
from mlc_workers.guided.service import Compiled


class ScriptedGuide:
    """Lets exactly these tokens through, then the text is complete."""

    num_words = 4

    def __init__(self, tokens: Sequence[int], fails_at: int | None = None) -> None:
        self.tokens = tokens
        self.fails_at = fails_at
        self.num_accepted = 0

    def fill(self, words: NDArray[np.uint32]) -> None:
        if self.num_accepted == self.fails_at:
            raise ArithmeticError("too complex")
        words[:] = 0
        token = self.tokens[self.num_accepted]
        words[token // 32] = 1 << (token % 32)

    def accept(self, token_id: int) -> bool:
        assert token_id == self.tokens[self.num_accepted]
        self.num_accepted += 1
        return self.num_accepted == len(self.tokens)


class ScriptedGrammar:
    """Every choice says the same."""

    num_bytes = 1000

    def __init__(self, tokens: Sequence[int], fails_at: int | None = None) -> None:
        self.tokens = tokens
        self.fails_at = fails_at

    def open(self, end_ids: frozenset[int]) -> ScriptedGuide:
        return ScriptedGuide(self.tokens, self.fails_at)


class ManualGrammars:
    """Grammars that are ready when the test says so."""

    def __init__(self) -> None:
        self.wakeup = Wakeup(-1, -1)
        self.futures: dict[str, Future[Compiled]] = {}

    def ask(self, grammar: Grammar) -> Future[Compiled]:
        return self.futures.setdefault(grammar.text, Future())

    def ready(self, text: str, outcome: Compiled | Exception) -> None:
        """Compiled, or failed."""
        if isinstance(outcome, Exception):
            self.futures[text].set_exception(outcome)
        else:
            self.futures[text].set_result(outcome)
