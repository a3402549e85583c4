"""Grammars without a grammar library: a text that must be said, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from mlc_llm.ipc.wakeup import Wakeup
from mlc_llm.protocol.generation import Grammar
from mlc_workers.guided.service import Compiled
from mlc_workers.request import GrammarTooComplex

Script = Sequence[int | Sequence[int]]
"""The token that comes at each place, or those that may."""


class ScriptedGuide:
    """Lets exactly these tokens through, then the text is complete."""

    num_words = 4

    def __init__(self, script: Script, fails_at: int | None, tells: bool) -> None:
        self.script = [[at] if isinstance(at, int) else list(at) for at in script]
        self.fails_at = fails_at
        self.tells = tells
        self.num_accepted = 0

    def fill(self, words: NDArray[np.uint32]) -> None:
        if self.num_accepted == self.fails_at:
            raise GrammarTooComplex("too many items")
        words[:] = 0
        for token in self.script[self.num_accepted]:
            words[token // 32] |= np.uint32(1 << (token % 32))

    def accept(self, token_id: int) -> bool:
        assert token_id in self.script[self.num_accepted]
        self.num_accepted += 1
        return self.num_accepted == len(self.script)

    def forced(self) -> list[int]:
        rest = self.script[self.num_accepted :] if self.tells else []
        return [at[0] for at in takewhile(lambda at: len(at) == 1, rest)]


class ScriptedGrammar:
    """Every choice follows the same script; `tells`: and hears what is forced."""

    num_bytes = 1000

    def __init__(self, script: Script, fails_at: int | None = None, *, tells: bool = False) -> None:
        self.script = script
        self.fails_at = fails_at
        self.tells = tells

    def open(self, end_ids: frozenset[int]) -> ScriptedGuide:
        return ScriptedGuide(self.script, self.fails_at, self.tells)


class ManualGrammars:
    """Grammars that are ready when the test says so."""

    def __init__(self) -> None:
        self.wakeup = Wakeup(-1, -1)
        self.futures: dict[str, Future[Compiled]] = {}

    def ask(self, grammar: Grammar) -> Future[Compiled]:
        return self.futures.setdefault(grammar.text, Future())

    def forget(self, grammar: Grammar) -> None:
        del self.futures[grammar.text]

    def ready(self, text: str, outcome: Compiled | Exception) -> None:
        """Compiled, or failed."""
        if isinstance(outcome, Exception):
            self.futures[text].set_exception(outcome)
        else:
            self.futures[text].set_result(outcome)
