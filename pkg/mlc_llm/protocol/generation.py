"""How one request is to be generated: sampling, stopping, what to report."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Grammar(Struct, frozen=True, array_like=True, gc=False):
    """What the generated text must match from its first byte to its last."""

    kind: Literal["json_schema", "regex", "choice", "lark", "tools", "structural_tag"]
    text: str
    """A JSON schema, a regular expression, a JSON list of texts, or a grammar in Lark's notation;
    for tools a JSON object: `lark` is a grammar, whose @schema_0 ... stand for the `schemas`, a
    list of pairs of a tool's name and its JSON schema, and @content for the grammar `content`, if
    there is one; for structural tags see `grammar.tags`."""
    param: str
    """The field of the request that asked for it; errors name it."""


class GenerationConfig(Struct, frozen=True, array_like=True, gc=False):
    """Complete and checked: the web process has filled every default before it sends this.

    The engine checks ranges again, against the width of its logits (see `mlc_workers.request`).
    """

    max_tokens: int = -1
    """Most tokens to generate per choice; -1: until the context window or the KV cache is full."""
    n: int = 1
    """Choices; they share the prompt's KV pages."""
    temperature: float = 1.0
    """0 means greedy."""
    top_p: float = 1.0
    top_k: int = -1
    """-1 means no limit."""
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    """None: the engine draws one. Choice i of n uses an independent stream of the same seed."""
    stop_strs: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    """The model's own end tokens included (they are ignored when `ignore_eos`)."""
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    min_tokens: int = 0
    """End tokens are not sampled before this many tokens."""
    continues: bool = False
    """The answer goes on from the prompt's text: a space at its start, which some tokenizers drop
    from the start of a text, is kept. True for completions, false for a chat's reply."""
    allowed_token_ids: bytes = b""
    """Only these may be sampled; empty: all. Little-endian int32: they may be most of a vocabulary,
    and wait in the queue with their request."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Sequences of tokens, none of them empty, that the answer never has in it."""
    keep_stop_str: bool = False
    """Whether the stop string that ends a text shows in it."""
    show_special_tokens: bool = False
    prompt_logprobs: int | None = None
    """Alternatives to report with each token of the prompt; None: do not report the prompt."""
    pooling: Literal["last", "mean", "cls"] | None = None
    """Make one vector of the prompt's hidden states and generate nothing: `max_tokens` is 0."""
    grammar: Grammar | None = None
    """None: any text."""
    shown_tokens: tuple[int, ...] = ()
    """Special tokens that show in the text by name, whatever `show_special_tokens` says."""
