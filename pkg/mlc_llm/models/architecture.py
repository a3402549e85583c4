"""The numbers that make one decoder different from the next. Plain data, no tensors."""

from __future__ import annotations

from msgspec import Struct


class RopeScaling(Struct, frozen=True):
    """Llama-3 style frequency scaling of the rotary embedding."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


class Architecture(Struct, frozen=True, kw_only=True):
    """A Llama-type decoder: pre-norm, rotary (NeoX halves), grouped-query attention, gated MLP."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    context_window_size: int
    """Most positions the model was made for."""

    @property
    def num_parameters(self) -> int:
        """Weights of all matrices and norms, a tied head counted once."""
        attention = (
            self.hidden_size
            * self.head_dim
            * (2 * self.num_attention_heads + 2 * self.num_key_value_heads)
        )
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        tables = 1 if self.tie_word_embeddings else 2
        return (
            self.num_hidden_layers * layer
            + tables * self.vocab_size * self.hidden_size
            + self.hidden_size
        )
