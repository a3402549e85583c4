"""An independent decoder in float64 NumPy: the truth that the engine's numbers are held against.

Dense, without cache, batches or tiles: nothing here is shared with the code under test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mlc_llm.models.architecture import Architecture, Latent, RopeScaling
from mlc_llm.models.parameters import parameters

Array = NDArray[np.float64]


class Oracle:
    """`weights`: unpacked matrices [rows, cols] and vectors, named as in `models.parameters`."""

    def __init__(self, arch: Architecture, weights: Mapping[str, NDArray[np.generic]]) -> None:
        self.arch = arch
        self.weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
        for name, value in self.weights.items():
            if name.endswith(("norm.weight", ".bias")):
                self.weights[name] = value.reshape(-1)

    def logits(self, token_ids: Sequence[int]) -> Array:
        """Logits after every token, [len(token_ids), vocab_size]; an encoder's hidden states."""
        a = self.arch
        x = a.embedding_scale * self.weights["model.embed_tokens.weight"][np.asarray(token_ids)]
        if a.learned_positions:
            x = x + self.weights["model.embed_positions.weight"][: len(x)]
        if a.token_types:
            x = x + self.weights["model.embed_types.weight"][0]
        if a.embedding_norm:
            x = self._norm(x, "model.embed_norm")
        for layer in range(a.num_hidden_layers):
            x = self._layer(x, layer, f"model.layers.{layer}")
        if a.encoder:
            return np.asarray(x)
        x = self._norm(x, "model.norm")
        head = self.weights[
            "model.embed_tokens.weight" if a.tie_word_embeddings else "lm_head.weight"
        ]
        return _capped(x @ head.T, a.logit_softcap)

    def greedy(self, token_ids: Sequence[int], num_tokens: int) -> list[int]:
        """The next `num_tokens` tokens, always the likeliest."""
        sequence = list(token_ids)
        for _ in range(num_tokens):
            sequence.append(int(self.logits(sequence)[-1].argmax()))
        return sequence[len(token_ids) :]

    def _layer(self, x: Array, index: int, layer: str) -> Array:
        attention_norm, mlp_norm = f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm"
        match self.arch.norms:
            case "after":
                x = x + self._norm(self._attention(x, index, layer), mlp_norm)
                return x + self._norm(self._mlp(x, layer), f"{layer}.post_feedforward_layernorm")
            case "sum":
                x = self._norm(x + self._attention(x, index, layer), mlp_norm)
                return self._norm(x + self._mlp(x, layer), f"{layer}.post_feedforward_layernorm")
            case "around":
                mixed = self._attention(self._norm(x, attention_norm), index, layer)
                x = x + self._norm(mixed, mlp_norm)
                inner = self._mlp(self._norm(x, f"{layer}.pre_feedforward_layernorm"), layer)
                return x + self._norm(inner, f"{layer}.post_feedforward_layernorm")
        normed = self._norm(x, attention_norm)
        mixed = self._attention(normed, index, layer)
        if not self.arch.parallel:
            x = x + mixed
            return x + self._mlp(self._norm(x, mlp_norm), layer)
        own = normed if self.arch.shared_norm else self._norm(x, mlp_norm)
        return x + mixed + self._mlp(own, layer)

    def _norm(self, x: Array, name: str) -> Array:
        if self.arch.norm == "layer":
            x = x - x.mean(-1, keepdims=True)
        normed = _rms(x, self.arch.rms_norm_eps) * self.weights[f"{name}.weight"]
        return np.asarray(normed + self.weights.get(f"{name}.bias", 0.0))

    def _linear(self, x: Array, name: str) -> Array:
        bias = self.weights.get(f"{name}.bias", 0.0)
        return np.asarray(x @ self.weights[f"{name}.weight"].T + bias)

    def _attention(self, x: Array, index: int, layer: str) -> Array:
        if self.arch.latent is not None:
            return self._latents(x, layer, self.arch.latent)
        a = self.arch
        n, groups = len(x), a.num_attention_heads // a.num_key_value_heads
        qkv = self._linear(x, f"{layer}.self_attn.qkv_proj").reshape(n, -1, a.head_dim)
        q, k, v = np.split(
            qkv, [a.num_attention_heads, a.num_attention_heads + a.num_key_value_heads], axis=1
        )
        slides = index in a.sliding_layers
        q = self._rotate(self._head_norm(q, f"{layer}.self_attn.q_norm"), slides)
        k = self._rotate(self._head_norm(k, f"{layer}.self_attn.k_norm"), slides)
        k, v = np.repeat(k, groups, axis=1), np.repeat(v, groups, axis=1)
        scale = a.head_dim**-0.5 if a.attention_scale is None else a.attention_scale
        scores = _capped(np.einsum("ihd,jhd->hij", q, k) * scale, a.attention_softcap)
        seen = np.ones((n, n), bool) if a.encoder else np.tri(n, dtype=bool)
        if slides:
            assert a.sliding_window is not None
            seen &= ~np.tri(n, k=-a.sliding_window, dtype=bool)
        scores = np.where(seen, scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", scores, v).reshape(n, -1)
        return self._linear(mixed, f"{layer}.self_attn.o_proj")

    def _latents(self, x: Array, layer: str, latent: Latent) -> Array:
        """Keys and values of every head are made, as a model is trained."""
        n, heads, attention = len(x), self.arch.num_attention_heads, f"{layer}.self_attn"
        w_uk = self.weights[f"{attention}.w_uk"].reshape(heads, latent.rank, latent.nope_dim)
        w_uv = self.weights[f"{attention}.w_uv"].reshape(heads, latent.value_dim, latent.rank)
        if latent.query_rank is None:
            q = self._linear(x, f"{attention}.q_proj")
        else:
            small = _rms(self._linear(x, f"{attention}.q_a_proj"), latent.norm_eps)
            small = small * self.weights[f"{attention}.q_a_layernorm.weight"]
            q = self._linear(small, f"{attention}.q_b_proj")
        q, q_turned = np.split(q.reshape(n, heads, -1), [latent.nope_dim], axis=-1)
        kv = self._linear(x, f"{attention}.kv_a_proj_with_mqa")
        c, k_turned = np.split(kv, [latent.rank], axis=-1)
        c = _rms(c, latent.norm_eps) * self.weights[f"{attention}.kv_a_layernorm.weight"]
        k, v = np.einsum("nr,hrd->nhd", c, w_uk), np.einsum("nr,hvr->nhv", c, w_uv)

        def turned(part: Array) -> Array:
            if latent.interleaved:
                part = np.concatenate([part[..., ::2], part[..., 1::2]], -1)
            return self._rotate(part, slides=False)

        q = np.concatenate([q, turned(q_turned)], -1)
        shared = np.repeat(turned(k_turned[:, None]), heads, axis=1)
        scale = self.arch.attention_scale or self.arch.head_dim**-0.5
        scores = np.einsum("ihd,jhd->hij", q, np.concatenate([k, shared], -1)) * scale
        scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = np.einsum("hij,jhv->ihv", scores, v).reshape(n, -1)
        return self._linear(mixed, f"{attention}.o_proj")

    def _head_norm(self, x: Array, name: str) -> Array:
        if self.arch.qk_norm is None:
            return x
        weight = self.weights[f"{name}.weight"]
        if self.arch.qk_norm == "head":
            return np.asarray(_rms(x, self.arch.rms_norm_eps) * weight)
        rows = x.reshape(len(x), -1)
        return np.asarray(_rms(rows, self.arch.rms_norm_eps) * weight).reshape(x.shape)

    def _rotate(self, x: Array, slides: bool) -> Array:
        if self.arch.learned_positions:
            return x
        width = self.arch.rotary_dim or self.arch.head_dim
        angles = np.arange(len(x))[:, None, None] * self._frequencies(width, slides)
        cos, sin = np.cos(angles), np.sin(angles)
        low, high, rest = np.split(x, [width // 2, width], axis=-1)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin, rest], -1)

    def _frequencies(self, width: int, slides: bool) -> Array:
        exponents = np.arange(0, width, 2) / width
        if slides and self.arch.sliding_rope_theta is not None:
            return np.asarray(1.0 / self.arch.sliding_rope_theta**exponents)
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
        if f"{layer}.mlp.gate.weight" in self.weights:
            return self._experts(x, layer)
        return self._dense(x, layer)

    def _experts(self, x: Array, layer: str) -> Array:
        experts = self.arch.experts
        assert experts is not None
        logits = self._linear(x, f"{layer}.mlp.gate")
        if experts.scores == "sigmoid":
            scores = 1 / (1 + np.exp(-logits))
        else:
            scores = np.exp(logits - logits.max(-1, keepdims=True))
            scores /= scores.sum(-1, keepdims=True)
        choice = scores + self.weights.get(f"{layer}.mlp.e_score_correction_bias", 0.0)
        ranked = np.sort(choice.reshape(len(x), experts.groups, -1))[..., ::-1]
        strength = ranked[..., : 2 if experts.group_score == "best_two" else 1].sum(-1)
        weakest = np.sort(strength)[:, -experts.groups_per_token, None]
        allowed = np.repeat(strength >= weakest, experts.count // experts.groups, axis=1)
        choice = np.where(allowed, choice, -np.inf)
        shares = np.where(choice >= np.sort(choice)[:, -experts.per_token, None], scores, 0)
        if experts.normalise:
            shares = shares / shares.sum(-1, keepdims=True)
        gate_up = self.weights[f"{layer}.mlp.moe_gate_up_proj.weight"]
        down = self.weights[f"{layer}.mlp.moe_down_proj.weight"]
        gate_up, down = (w.reshape(experts.count, -1, w.shape[1]) for w in (gate_up, down))
        gate, up = np.split(np.einsum("nh,erh->ner", x, gate_up), 2, axis=-1)
        out = np.einsum("nei,ehi->neh", self._activated(gate) * up, down)
        found = experts.scale * np.einsum("ne,neh->nh", shares, out)
        if experts.shared_size:
            shared = self._dense(x, layer, "mlp.shared_experts")
            if experts.shared_gate:
                shared /= 1 + np.exp(-self._linear(x, f"{layer}.mlp.shared_expert_gate"))
            found = found + shared
        return np.asarray(found)

    def _dense(self, x: Array, layer: str, mlp: str = "mlp") -> Array:
        if self.arch.gated:
            both = self._linear(x, f"{layer}.{mlp}.gate_up_proj")
            gate, up = np.split(both, 2, axis=-1)
            hidden = self._activated(gate) * up
        else:
            hidden = self._activated(self._linear(x, f"{layer}.{mlp}.up_proj"))
        return self._linear(hidden, f"{layer}.{mlp}.down_proj")

    def _activated(self, x: Array) -> Array:
        match self.arch.activation:
            case "silu":
                return np.asarray(x / (1 + np.exp(-x)))
            case "gelu":
                erf = np.vectorize(math.erf)(x / np.sqrt(2))
                return np.asarray(x * (1 + erf) / 2)
            case "gelu_tanh":
                inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
                return np.asarray(x * (1 + np.tanh(inner)) / 2)


def _rms(x: Array, eps: float) -> Array:
    return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + eps))


def _capped(x: Array, cap: float | None) -> Array:
    return x if cap is None else np.asarray(cap * np.tanh(x / cap))


def random_weights(arch: Architecture, seed: int) -> dict[str, NDArray[np.float32]]:
    """Weights of a sane scale under `models.parameters`' names; norms near one."""
    from_seed = np.random.default_rng(seed)
    weights: dict[str, NDArray[np.float32]] = {}
    for spec in parameters(arch):
        if spec.name.endswith(".bias"):
            value = 0.1 * from_seed.standard_normal(spec.cols)
        elif spec.kind == "vector":
            value = 1 + 0.1 * from_seed.standard_normal(spec.cols)
        else:
            value = from_seed.standard_normal((spec.rows, spec.cols)) / np.sqrt(spec.cols)
        weights[spec.name] = value.astype(np.float32)
    return weights
