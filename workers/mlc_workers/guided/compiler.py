"""Grammars, compiled for one tokenizer by `llguidance`. The only user of that library.

Runs in threads of the grammar service; the library lets other threads run while it compiles and
while it fills masks, but not while it reads a tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from mlc_llm.errors import BadRequest, EngineFault
from mlc_llm.grammar.limits import ToolCalls, check_grammar
from mlc_llm.grammar.tags import Tags
from mlc_llm.protocol.generation import Grammar
from mlc_workers.guided.schema import plain
from mlc_workers.guided.tags import lark_of
from mlc_workers.request import GrammarTooComplex

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

WHITESPACE = r" |\r?\n[ \t]{0,40}"
"""Between two tokens of JSON: a blank, or a new line with its indentation; never more, because
small models like to go on with blanks for ever."""

SCHEMA_OPTIONS: JsonCompileOptions = {
    "item_separator": ",",
    "key_separator": ":",
    "whitespace_flexible": True,
    "whitespace_pattern": WHITESPACE,
    "coerce_one_of": False,
    "lenient": False,
}
"""Stronger than options inside the schema. What cannot be enforced is refused."""

LIMITS = LLParserLimits(
    max_items_in_row=2000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=500_000,
    verbose_errors=False,
)

SLICES = [r'[^"\\\x00-\x1F\x7F]+']
"""Tokens that may stand inside a string of JSON: the library keeps their mask and copies of its
tree without them, 11 MB for 128k tokens. Its own choice has four such sets in 42 MB, and is faster
by a fifth only where strings have a greatest length.
"""

BYTES_PER_GRAMMAR = 256 * 1024
BYTES_PER_BYTE = 64
"""What a compiled grammar holds, estimated from its text: about 180 KB for schemas of 1.2 KB."""

MAX_REASON = 300
_TOO_COMPLEX = re.compile("too many|too complex|too large|limit|max is|fuel", re.IGNORECASE)
_BETTER_SAID = {
    "coerce_one_of": "`oneOf` is supported only where no value can match two of its branches; use "
    "`anyOf`",
    "not JSON serializable": "it has a whole number of more than 64 bits",
    "Failed to generate regex for": "no number lies between its bounds, or they are too far from 0",
}
"""What the library says with advice that is not for users, by a word in it."""
Schemas = Sequence[tuple[str, Any]]
"""JSON schemas, with what to call each in an error."""
_META = set("\\.+*?()|[]{}^$#&-~/")


class MatcherGuide:
    """One choice's place in its grammar (see `mlc_workers.request.Guide`)."""

    def __init__(
        self,
        matcher: LLMatcher,
        tokenizer: LLTokenizer,
        num_words: int,
        end_ids: frozenset[int],
    ) -> None:
        """`end_ids`: tokens that end this answer; they may come where the text is complete."""
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._can_end = False
        self.num_words = num_words

    def fill(self, words: NDArray[np.uint32]) -> None:
        """Raises GrammarTooComplex."""
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        if self._matcher.is_error():
            raise GrammarTooComplex(_reason(self._matcher.get_error()))
        if self._matcher.is_accepting():
            for token_id in self._end_ids:
                words[token_id // 32] |= np.uint32(1 << (token_id % 32))
        elif (only := _only(words)) is not None and not self._matcher.validate_tokens([only]):
            words[:] = 0
            for token_id in self._spelled():
                words[token_id // 32] = 1 << (token_id % 32)

    def accept(self, token_id: int) -> bool:
        """Raises EngineFault for a token that the mask does not have, GrammarTooComplex."""
        if token_id in self._end_ids:
            return True
        if not self._matcher.consume_token(token_id):
            error = self._matcher.get_error()
            if _TOO_COMPLEX.search(error):
                raise GrammarTooComplex(_reason(error))
            raise EngineFault(f"token {token_id} does not follow the grammar")
        return self._matcher.is_stopped()

    def forced(self) -> list[int]:
        """What must come next, in the tokens that a text would be cut into."""
        if self._matcher.is_accepting():
            return []
        tokens = self._matcher.compute_ff_tokens()
        return tokens[: self._matcher.validate_tokens(tokens)] or (
            self._spelled() if tokens else []
        )

    def _spelled(self) -> list[int]:
        """The token that the forced text begins with, where the tokenizer would cut it into
        tokens that are not that text: names of added tokens, characters that it normalizes.
        """
        data = self._matcher.compute_ff_bytes()
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            text = data[: error.start].decode()
        greedy = self._tokenizer.greedy_tokenize
        return (greedy(text) if text else self._tokenizer.tokenize_bytes(data[:1]))[:1]


class CompiledGrammar:
    """A grammar at its start, to be copied for every choice."""

    def __init__(
        self, matcher: LLMatcher, tokenizer: LLTokenizer, num_words: int, num_bytes: int
    ) -> None:
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._num_words = num_words
        self.num_bytes = num_bytes
        """About how much memory it holds."""

    def open(self, end_ids: frozenset[int]) -> MatcherGuide:
        """The guide of a new choice."""
        known = frozenset(i for i in end_ids if 0 <= i < self._num_words * 32)
        return MatcherGuide(self._matcher.deep_copy(), self._tokenizer, self._num_words, known)


class Compiler:
    """Compiles for one tokenizer. Safe to use from several threads."""

    def __init__(self, tokenizer: Path, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        """`vocab_size`: ids of the tokenizer and columns of the logits, whichever are more."""
        self._tokenizer = LLTokenizer(
            str(tokenizer),
            n_vocab=vocab_size,
            eos_token=list(eos_token_ids) or None,
            slices=SLICES,
        )
        self._num_words = (vocab_size + 31) // 32
        self._added_tokens = _added_tokens(tokenizer)

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Ready for its first mask. Raises BadRequest naming the field and the reason."""
        check_grammar(grammar)
        try:
            source = self._source(grammar)
        except ValueError as error:
            raise _unusable(grammar, str(error)) from error
        matcher = LLMatcher(self._tokenizer, source, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise _unusable(grammar, matcher.get_error())
        words = np.empty(self._num_words, np.uint32)
        first = matcher.deep_copy()
        first.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        if first.is_error():
            raise _unusable(grammar, "no text matches it, or its beginning is too complex")
        num_bytes = BYTES_PER_GRAMMAR + BYTES_PER_BYTE * len(grammar.text)
        return CompiledGrammar(matcher, self._tokenizer, self._num_words, num_bytes)

    def _source(self, grammar: Grammar) -> str:
        if grammar.kind == "tools":
            return self._tools_source(grammar.text)
        if grammar.kind == "structural_tag":
            return _with_schemas(*self._tags(grammar.text))
        return _SOURCES[grammar.kind](grammar.text)

    def _tags(self, text: str, first: int = 0) -> tuple[str, Schemas]:
        """A grammar and the schemas that it refers to, from @schema_`first` on."""
        tags = msgspec.json.decode(text, type=Tags)
        schemas = [(f"the schema after {tag.begin[:50]!r}", tag.schema) for tag in tags.tags]
        return lark_of(tags, self._added_tokens, first), schemas

    def _tools_source(self, text: str) -> str:
        document = msgspec.json.decode(text, type=ToolCalls)
        schemas: Schemas = [
            (f"the parameters of the tool `{name}`", one) for name, one in document.schemas
        ]
        if document.content is None:
            return _with_schemas(document.lark, schemas)
        lark, more = self._content(document.content, len(schemas))
        return _with_schemas(document.lark, [*schemas, *more], lark)

    def _content(self, content: Grammar, first: int) -> tuple[str, Schemas]:
        """The grammar of texts beside calls, and the schemas that it refers to."""
        if content.kind == "structural_tag":
            return self._tags(content.text, first)
        error = LLMatcher.validate_grammar(
            LLMatcher.grammar_from_lark(content.text), self._tokenizer, limits=LIMITS
        )
        if error:
            raise ValueError(f"`{content.param}`: {_reason(error)}")
        return content.text, []


def _schema_source(text: str) -> str:
    schema = msgspec.json.decode(text)
    return LLMatcher.grammar_from_json_schema(
        {} if schema is True else plain(schema), overrides=SCHEMA_OPTIONS
    )


def _choice_source(text: str) -> str:
    """The texts as one expression: that scales to thousands, rules of a grammar do not."""
    choices = msgspec.json.decode(text, type=list[str])
    return LLMatcher.grammar_from_regex("|".join(map(_literal, choices)))


def _with_schemas(lark: str, schemas: Schemas, content: str | None = None) -> str:
    """A grammar and what its @schema_0 ... stand for, with the same rules for JSON as answers have.

    `schemas`: with each, what to call it in an error. `content`: what @content stands for.
    """
    parts: list[dict[str, Any]] = [{"lark_grammar": lark}]
    if content is not None:
        parts.append({"name": "content", "lark_grammar": content})
    for index, (name, schema) in enumerate(schemas):
        try:
            ruled = plain(schema) if isinstance(schema, dict) else {}
        except ValueError as refused:
            raise ValueError(f"{name}: {refused}") from refused
        ruled["x-guidance"] = SCHEMA_OPTIONS
        part = {"name": f"schema_{index}", "json_schema": ruled}
        error = LLMatcher.validate_grammar(json.dumps({"grammars": [part]}), None, limits=LIMITS)
        if error:
            raise ValueError(f"{name}: {_reason(error)}")
        parts.append(part)
    return json.dumps({"grammars": parts})


_SOURCES: dict[str, Callable[[str], str]] = {
    "json_schema": _schema_source,
    "regex": LLMatcher.grammar_from_regex,
    "choice": _choice_source,
    "lark": LLMatcher.grammar_from_lark,
}


class _AddedToken(msgspec.Struct):
    id: int
    content: str


class _TokenizerFile(msgspec.Struct):
    added_tokens: list[_AddedToken] = []


def _added_tokens(tokenizer: Path) -> dict[str, int]:
    file = msgspec.json.decode(tokenizer.read_bytes(), type=_TokenizerFile)
    return {token.content: token.id for token in file.added_tokens if token.content}


def _only(words: NDArray[np.uint32]) -> int | None:
    """The token that a mask lets through, where it is a single one."""
    if np.count_nonzero(words) != 1:
        return None
    place = int(words.argmax())
    bits = int(words[place])
    return None if bits & (bits - 1) else place * 32 + bits.bit_length() - 1


def _literal(text: str) -> str:
    """An expression that matches this text alone."""
    return "".join(f"\\{c}" if c in _META else c for c in text)


def _unusable(grammar: Grammar, reason: str) -> BadRequest:
    return BadRequest(f"`{grammar.param}` cannot be used: {_reason(reason)}.", param=grammar.param)


def _reason(error: str) -> str:
    """The telling line of the library's message, without the pointers into the grammar."""
    lines = [line.strip() for line in error.splitlines()] or ["unknown"]
    telling = next((line[7:] for line in lines if line.startswith("error: ")), lines[0])
    telling = next((said for name, said in _BETTER_SAID.items() if name in telling), telling)
    return telling.rstrip(".:")[:MAX_REASON]
