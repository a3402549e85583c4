"""The numbers that make one decoder different from the next. Plain data, no tensors."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class RopeScaling(Struct, frozen=True, tag="llama3"):
    """Llama-3 style frequency scaling of the rotary embedding."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


class LinearRope(Struct, frozen=True, tag="linear"):
    """Positions divided by `factor`."""

    factor: float


class YarnRope(Struct, frozen=True, kw_only=True, tag="yarn"):
    """YaRN (Peng et al., 2023): slow pairs are interpolated, fast ones kept."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float
    """What cosines and sines are multiplied by."""


class LongRope(Struct, frozen=True, tag="longrope"):
    """A divisor of its own for every pair, and another for sequences past the original positions.

    Which ones are used is decided once, by the longest sequence that is served: keys that were
    turned by one of them cannot be turned again.
    """

    factors: tuple[float, ...]
    attention_factor: float
    long_factors: tuple[float, ...]
    original_max_position_embeddings: int


Norm = Literal["rms", "layer"]
Activation = Literal["silu", "gelu", "gelu_tanh"]
"""gelu is the exact one, by the error function; gelu_tanh its approximation by tanh."""


class Experts(Struct, frozen=True, kw_only=True):
    """A router and the experts it chooses from, which stand where other layers have their MLP.

    Shares are what a row's experts are weighted with when they are added up.
    """

    count: int
    per_token: int
    intermediate_size: int
    """Of one expert."""
    layers: tuple[int, ...]
    """The layers that have experts."""
    scores: Literal["softmax", "sigmoid"] = "softmax"
    """What makes scores, which become shares, of the router's logits."""
    normalise: bool = False
    """The shares of a row are divided by their sum."""
    scale: float = 1.0
    """What shares are multiplied by in the end."""
    correction: bool = False
    """A bias is added to scores when experts are chosen, but not to shares."""
    groups: int = 1
    """Neighbouring experts form groups of equal size."""
    groups_per_token: int = 1
    """Experts are chosen from the best groups only."""
    group_score: Literal["best", "best_two"] = "best"
    """A group counts as much as its best expert, or as its best two together."""
    shared_size: int = 0
    """Intermediate size of an MLP that every row passes as well; 0 is none."""
    shared_gate: bool = False
    """That MLP is weighted with the sigmoid of a product of its own."""


class Latent(Struct, frozen=True, kw_only=True):
    """Attention whose keys and values are made of one small vector for each token, the latent.

    A head's key is `nope_dim` columns made of the latent and `rope_dim` rotated ones that all heads
    share; its value is `value_dim` columns made of the latent.
    """

    rank: int
    """Columns of a latent."""
    rope_dim: int
    nope_dim: int
    value_dim: int
    query_rank: int | None = None
    """Queries are made of a small vector too, of so many columns."""
    interleaved: bool = True
    """Neighbouring columns are rotated against each other, not halves."""
    norm_eps: float = 1e-6
    """Of the norms of latents."""

    @property
    def width(self) -> int:
        """What a token leaves in the KV pool: its latent and its rotated key."""
        return self.rank + self.rope_dim


class Architecture(Struct, frozen=True, kw_only=True):
    """A decoder of transformer layers with rotary (NeoX halves), grouped-query attention.

    Fields without a default are what every model has; the defaults of the others make a Llama.
    """

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    """Of all norms, whatever their kind."""
    rope_theta: float
    rope_scaling: RopeScaling | LinearRope | YarnRope | LongRope | None = None
    tie_word_embeddings: bool = False
    context_window_size: int
    """Most positions the model was made for."""

    norm: Norm = "rms"
    norm_bias: bool = False
    norms: Literal["before", "after", "around", "sum"] = "before"
    """Where attention and MLP are normalised: what they read, what they add, both, or what they
    read and what they add together."""
    parallel: bool = False
    """Attention and MLP read the same rows and are added together."""
    shared_norm: bool = False
    """A parallel layer has one norm for both."""

    qkv_bias: bool = False
    out_bias: bool = False
    """Of the projection that ends attention."""
    qk_norm: Literal["head", "row"] | None = None
    """RMS norms of queries and keys before they are rotated: of each head, or of all together."""
    rotary_dim: int | None = None
    """Leading columns of a head that are rotated; None is all."""
    learned_positions: bool = False
    """A table of positions is added to the embedding and nothing is rotated."""
    attention_scale: float | None = None
    """What scores are multiplied by; None is 1 / sqrt(head_dim)."""
    attention_softcap: float | None = None
    """Scores become softcap * tanh(score / softcap)."""
    sliding_window: int | None = None
    """Latest positions, its own included, that a row of a sliding layer attends to."""
    sliding_layers: tuple[int, ...] = ()
    sliding_rope_theta: float | None = None
    """Base of sliding layers, which are then not rescaled; None: all layers rotate alike."""

    unrotated_layers: tuple[int, ...] = ()
    """Layers whose queries and keys do not turn with their positions (NoPE)."""
    latent: Latent | None = None
    """Attention over latents; `head_dim` then is that of queries, and there is one KV head."""

    gated: bool = True
    """The MLP is down(act(gate(x)) * up(x)), else down(act(up(x)))."""
    activation: Activation = "silu"
    mlp_bias: bool = False
    experts: Experts | None = None

    encoder: bool = False
    """Rows attend to their whole prompt, which is computed in one step, and there is no head: what
    the last layer gives is the result. Nothing can be generated."""
    token_types: int = 0
    """Rows of a table of which the first is added to every embedding; 0 is no table."""
    embedding_norm: bool = False
    """Embeddings, with what is added to them, are normalised."""
    embedding_scale: float = 1.0
    logit_softcap: float | None = None

    @property
    def rope_dim(self) -> int:
        """Columns of the rotary table: cosines and sines of one position and base."""
        return self.rotary_dim or self.head_dim

    @property
    def rope_width(self) -> int:
        """Columns of the whole rotary table: that of all layers, that of sliding layers where they
        have their own, then that of layers that do not turn."""
        own, still = self.sliding_rope_theta is not None, bool(self.unrotated_layers)
        return self.rope_dim * (1 + own + still)

    @property
    def kv_page(self) -> tuple[int, int, int]:
        """What a token leaves in the KV pool: KV heads, vectors of each (K and V), and columns of a
        vector, padded to 16."""
        if self.latent is not None:
            return 1, 1, -(-self.latent.width // 16) * 16
        return self.num_key_value_heads, 2, -(-self.head_dim // 16) * 16

    def has_experts(self, layer: int) -> bool:
        """Whether experts stand where this layer would have its MLP."""
        return self.experts is not None and layer in self.experts.layers

    @property
    def num_parameters(self) -> int:
        """Weights of all matrices and norms, a tied head counted once."""
        attention = (
            self.hidden_size
            * self.head_dim
            * (2 * self.num_attention_heads + 2 * self.num_key_value_heads)
        )
        if (latent := self.latent) is not None:
            heads, hidden = self.num_attention_heads, self.hidden_size
            queries = heads * self.head_dim
            made = latent.rank * heads * (latent.nope_dim + latent.value_dim)
            read = hidden * queries
            if latent.query_rank is not None:
                read = latent.query_rank * (hidden + queries)
            attention = read + hidden * (latent.width + heads * latent.value_dim) + made
        mlp = (3 if self.gated else 2) * self.hidden_size * self.intermediate_size
        sparse = 0
        if self.experts is not None:
            inner = self.experts.count * self.experts.intermediate_size + self.experts.shared_size
            difference = self.hidden_size * (3 * inner + self.experts.count) - mlp
            sparse = len(self.experts.layers) * difference
        layer = attention + mlp + 2 * self.hidden_size
        tables = 1 if self.tie_word_embeddings else 2
        return (
            self.num_hidden_layers * layer
            + sparse
            + tables * self.vocab_size * self.hidden_size
            + self.hidden_size
        )
