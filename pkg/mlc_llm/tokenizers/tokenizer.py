"""Text to token ids, in bounded time, off the event loop when long. Wraps `tokenizers`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from mlc_llm.errors import BadModel, BadRequest, PromptTooLong

BYTES_PER_TOKEN = 64
"""No text of a useful kind has more bytes per token; a longer text is refused unread."""
LONG_TEXT = 4096
"""Characters from which a text is tokenized in a thread (about 1 ms of work)."""


class Tokenizer:
    """One model's tokenizer. Safe to use from several threads."""

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        config: Mapping[str, Any],
        bos_token_id: int | None = None,
    ) -> None:
        """`config` is tokenizer_config.json; `bos_token_id` is what the model's own config says."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        added = tokenizer.get_added_tokens_decoder()
        self.added_tokens: dict[str, int] = {token.content: i for i, token in added.items()}
        """Tokens that were added to the vocabulary, special ones and others, by name."""
        self.base_size: int = tokenizer.get_vocab_size(with_added_tokens=False)
        """Tokens without those that were added, which a model need not know."""
        self.special_tokens: dict[str, int] = {
            token.content: i for i, token in added.items() if token.special
        }
        """Tokens that never show in a text, by name."""
        self.bos_token_id = self._begin_of_text(config, bos_token_id)
        """The token that begins a plain prompt; None when prompts begin with their text."""

    @classmethod
    def load(
        cls, folder: Path, config: Mapping[str, Any], bos_token_id: int | None = None
    ) -> Tokenizer:
        """Read tokenizer.json of a model folder. Raises BadModel."""
        path = folder / "tokenizer.json"
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises bare Exception for whatever is wrong
            raise BadModel(f"The tokenizer {path} cannot be used: {error}.") from error
        return cls(tokenizer, config, bos_token_id)

    def encode(self, text: str) -> list[int]:
        """Token ids; names of special tokens in the text are those tokens, none is added."""
        if len(text) < LONG_TEXT:
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        # of the package's calls, the ones for batches let other threads run meanwhile
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def encode_whole(self, text: str) -> list[int]:
        """Token ids with the tokens that the tokenizer itself puts around a text."""
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=True)[0].ids

    async def encode_off_loop(self, text: str) -> list[int]:
        """As `encode`; neither a long text nor many short ones hold up the event loop."""
        if len(text) < LONG_TEXT:
            await asyncio.sleep(0)
            return self.encode(text)
        return await asyncio.to_thread(self.encode, text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, special tokens by name."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def name_of(self, token_id: int) -> str:
        """The token as the vocabulary writes it, "" for an unused id."""
        return self._tokenizer.id_to_token(token_id) or ""

    def token_id(self, token: str) -> int | None:
        """The id of a token by its name, None when there is none."""
        return self._tokenizer.token_to_id(token)

    def _begin_of_text(self, config: Mapping[str, Any], declared: int | None) -> int | None:
        """tokenizer_config.json decides; where it is silent, what the post-processor does."""
        added = self._tokenizer.encode("", add_special_tokens=True).ids
        if not config.get("add_bos_token", bool(added)):
            return None
        token = config.get("bos_token")
        name = token.get("content") if isinstance(token, Mapping) else token
        named = self.token_id(name) if isinstance(name, str) else None
        if named is not None:
            return named
        return declared if declared is not None else next(iter(added), None)


def check_text(text: str, max_tokens: int, param: str) -> None:
    """Refuse, without tokenizing, what cannot be encoded or cannot fit into `max_tokens`.

    Raises BadRequest or PromptTooLong naming `param`.
    """
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        reason = f"`{param}` holds a lone surrogate at character {error.start}; send valid text."
        raise BadRequest(reason, param=param) from error
    if size > BYTES_PER_TOKEN * max_tokens:
        raise PromptTooLong(
            f"This model's maximum context length is {max_tokens} tokens; the prompt is too long: "
            f"{size} bytes of text cannot fit.",
            param=param,
        )
