"""Fields that vLLM's clients send beside OpenAI's, with the same meaning here."""

from __future__ import annotations

from mlc_llm.protocol.other_names import OtherNames


class SamplingFields(OtherNames, frozen=True, kw_only=True):
    """How to sample, and what of the tokens to show. None: not given."""

    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = None
    allowed_token_ids: list[int] | None = None
    """Only these tokens are sampled."""
    bad_words: list[str] | None = None
    """Texts that are never generated."""
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    """False: special tokens show in the text, by name."""
    add_special_tokens: bool | None = None
    """Whether the prompt begins with the model's first token; completions: true, chats: false,
    because the chat template writes it."""
    prompt_logprobs: int | None = None
    """How many alternatives to report with each token of the prompt."""
    truncate_prompt_tokens: int | None = None
    """Keep only the last so many tokens of the prompt; -1: as many as fit."""
