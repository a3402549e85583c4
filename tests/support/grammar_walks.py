"""Random texts that a grammar lets through: a model without a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlc_llm.errors import EngineFault
from mlc_llm.protocol.generation import Grammar
from mlc_llm.tokenizers.table import TokenTable
from mlc_workers.guided.compiler import CompiledGrammar, Compiler
from mlc_workers.request import GrammarTooComplex

TOKENIZER = Path(__file__).resolve().parents[2] / "pkg/mlc_llm/packaged_model/tokenizer.json"
CLOSING = frozenset(b'"]},')


class Walker:
    """Follows grammars at random, over one tokenizer.json."""

    def __init__(self, tokenizer: Path = TOKENIZER, eos: int = 0) -> None:
        self.table = TokenTable.load(tokenizer)
        self.compiler = Compiler(tokenizer, len(self.table), [eos])
        self._eos = eos
        self._single = {
            self.table.bytes_of(i)[0]: i
            for i in range(len(self.table))
            if len(self.table.bytes_of(i)) == 1
        }
        self._closing = np.array(
            [bool(CLOSING & set(self.table.bytes_of(i))) for i in range(len(self.table))]
        )

    def walk(self, grammar: Grammar, seed: int, max_tokens: int = 400) -> str | None:
        """A complete text; None when it did not end within `max_tokens`.

        Every other token is one that brings a text to its end, where such a token is allowed.
        """
        rng = np.random.default_rng(seed)
        guide = self.compiler.compile(grammar).open(frozenset({self._eos}))
        words = np.empty(guide.num_words, np.uint32)
        text = b""
        for _ in range(max_tokens):
            guide.fill(words)
            bits = np.unpackbits(words.view(np.uint8), bitorder="little").astype(bool)
            allowed = bits[: len(self.table)]
            if allowed[self._eos] and rng.random() < 0.5:
                return text.decode()
            ids = np.flatnonzero(allowed)
            ends = np.flatnonzero(allowed & self._closing)
            if len(ends) and rng.random() < 0.5:
                ids = ends
            token_id = int(rng.choice(ids))
            if token_id == self._eos:
                return text.decode()
            text += self.table.bytes_of(token_id)
            if guide.accept(token_id):
                return text.decode()
        return None

    def follows(self, grammar: Grammar, text: str) -> bool:
        """Whether the grammar lets this text through, byte by byte, and may end there."""
        return self.accepts(self.compiler.compile(grammar), text)

    def accepts(self, compiled: CompiledGrammar, text: str) -> bool:
        """The same of a grammar that is compiled already."""
        guide = compiled.open(frozenset({self._eos}))
        words = np.empty(guide.num_words, np.uint32)
        try:
            steps = [guide.accept(self._single[byte]) for byte in text.encode()]
        except (EngineFault, GrammarTooComplex):
            return False
        if True in steps:
            return steps.index(True) == len(steps) - 1
        guide.fill(words)
        return bool(words[self._eos // 32] >> (self._eos % 32) & 1)
