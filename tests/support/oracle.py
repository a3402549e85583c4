"""An independent Llama in float64 NumPy: the truth that the engine's numbers are held against.

Dense, without cache, batches or tiles: nothing here is shared with the code under test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mlc_llm.models.architecture import Architecture, RopeScaling
from mlc_llm.models.parameters import parameters

Array = NDArray[np.float64]


class OracleLlama:
    """`weights`: unpacked matrices [rows, cols] and vectors, named as in `models.parameters`."""

    def __init__(self, arch: Architecture, weights: Mapping[str, NDArray[np.generic]]) -> None:
        self.arch = arch
        self.weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
        for name, value in self.weights.items():
            if name.endswith("norm.weight"):
                self.weights[name] = value.reshape(-1)

    def logits(self, token_ids: Sequence[int]) -> Array:
        """Logits after every token, [len(token_ids), vocab_size]."""
        x = self.weights["model.embed_tokens.weight"][np.asarray(token_ids)]
        for layer in range(self.arch.num_hidden_layers):
            x = x + self._attention(x, f"model.layers.{layer}")
            x = x + self._mlp(x, f"model.layers.{layer}")
        x = self._norm(x, "model.norm.weight")
        tied = self.arch.tie_word_embeddings
        head = self.weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
        return np.asarray(x @ head.T)

    def greedy(self, token_ids: Sequence[int], num_tokens: int) -> list[int]:
        """The next `num_tokens` tokens, always the likeliest."""
        sequence = list(token_ids)
        for _ in range(num_tokens):
            sequence.append(int(self.logits(sequence)[-1].argmax()))
        return sequence[len(token_ids) :]

    def _norm(self, x: Array, name: str) -> Array:
        scale = np.sqrt((x * x).mean(-1, keepdims=True) + self.arch.rms_norm_eps)
        return np.asarray(x / scale * self.weights[name])

    def _attention(self, x: Array, layer: str) -> Array:
        a = self.arch
        n, groups = len(x), a.num_attention_heads // a.num_key_value_heads
        h = self._norm(x, f"{layer}.input_layernorm.weight")
        qkv = (h @ self.weights[f"{layer}.self_attn.qkv_proj.weight"].T).reshape(n, -1, a.head_dim)
        q, k, v = np.split(
            qkv, [a.num_attention_heads, a.num_attention_heads + a.num_key_value_heads], axis=1
        )
        q, k = self._rotate(q), self._rotate(k)
        k, v = np.repeat(k, groups, axis=1), np.repeat(v, groups, axis=1)
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(a.head_dim)
        scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", scores, v).reshape(n, -1)
        return np.asarray(mixed @ self.weights[f"{layer}.self_attn.o_proj.weight"].T)

    def _rotate(self, x: Array) -> Array:
        half = self.arch.head_dim // 2
        angles = np.arange(len(x))[:, None, None] * self._frequencies()
        cos, sin = np.cos(angles), np.sin(angles)
        low, high = x[..., :half], x[..., half:]
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], -1)

    def _frequencies(self) -> Array:
        exponents = np.arange(0, self.arch.head_dim, 2) / self.arch.head_dim
        plain = 1.0 / self.arch.rope_theta**exponents
        scaling = self.arch.rope_scaling
        if scaling is None:
            return plain
        assert isinstance(scaling, RopeScaling)
        found = np.empty_like(plain)
        for i, f in enumerate(plain):
            turns = scaling.original_max_position_embeddings * f / (2 * np.pi)
            if turns > scaling.high_freq_factor:
                found[i] = f
            elif turns < scaling.low_freq_factor:
                found[i] = f / scaling.factor
            else:
                share = (turns - scaling.low_freq_factor) / (
                    scaling.high_freq_factor - scaling.low_freq_factor
                )
                found[i] = (1 - share) * f / scaling.factor + share * f
        return found

    def _mlp(self, x: Array, layer: str) -> Array:
        h = self._norm(x, f"{layer}.post_attention_layernorm.weight")
        both = h @ self.weights[f"{layer}.mlp.gate_up_proj.weight"].T
        gate, up = np.split(both, 2, axis=-1)
        hidden = gate / (1 + np.exp(-gate)) * up
        return np.asarray(hidden @ self.weights[f"{layer}.mlp.down_proj.weight"].T)


def random_weights(arch: Architecture, seed: int) -> dict[str, NDArray[np.float32]]:
    """Weights of a sane scale under `models.parameters`' names; norms near one."""
    from_seed = np.random.default_rng(seed)
    weights: dict[str, NDArray[np.float32]] = {}
    for spec in parameters(arch):
        if spec.kind == "vector":
            value = 1 + 0.1 * from_seed.standard_normal(spec.cols)
        else:
            value = from_seed.standard_normal((spec.rows, spec.cols)) / np.sqrt(spec.cols)
        weights[spec.name] = value.astype(np.float32)
    return weights
