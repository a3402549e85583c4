"""The rotary embedding as config.json describes it, in its older and its newer spelling.

Older files have `rope_theta` and `rope_scaling`; newer ones put both, and the rotated share of a
head, into `rope_parameters`. Every scaling becomes numbers that hold for sequences of any length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from mlc_llm.errors import BadModel
from mlc_llm.models.architecture import LinearRope, LongRope, RopeScaling, YarnRope

Positions = Annotated[int, Meta(ge=1, le=1 << 24)]
Positive = Annotated[float, Meta(gt=0, le=1e12)]
Share = Annotated[float, Meta(gt=0, le=1)]
Factors = Annotated[list[Positive], Meta(max_length=1024)]
Scaling = RopeScaling | LinearRope | YarnRope | LongRope | None


class RopeParameters(Struct, frozen=True):
    """`rope_scaling` of config.json, or the newer `rope_parameters` that also holds the base."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: Positive | None = None
    partial_rotary_factor: Share | None = None
    factor: Positive | None = None
    low_freq_factor: Positive | None = None
    high_freq_factor: Positive | None = None
    original_max_position_embeddings: Positions | None = None
    attention_factor: Positive | None = None
    beta_fast: Positive | None = None
    beta_slow: Positive | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short_factor: Factors | None = None
    long_factor: Factors | None = None


class Rotary(NamedTuple):
    """How a model turns its positions, and how many of them it was made for."""

    scaling: Scaling
    context_window_size: int


class _Case(NamedTuple):
    """What a scaling is read from."""

    rope: RopeParameters
    max_positions: int
    rope_dim: int
    path: Path

    def need(self, *keys: str) -> list[float]:
        """Values of keys that this kind of scaling cannot do without."""
        if missing := [key for key in keys if getattr(self.rope, key) is None]:
            kind = self.rope.rope_type or self.rope.type
            needed = " and ".join([", ".join(keys[:-1]), keys[-1]] if keys[1:] else keys)
            raise BadModel(
                f"{self.path}: {kind} rope scaling needs {needed}; {', '.join(missing)} is missing"
            )
        return [getattr(self.rope, key) for key in keys]


def read_rotary(
    rope: RopeParameters | None, max_positions: int, rope_dim: int, path: Path
) -> Rotary:
    """The scaling that `rope` asks for in a model of `max_positions`, `rope_dim` of whose columns
    turn. Raises `BadModel` for a scaling that is unknown or lacks a key."""
    kind = (rope.rope_type or rope.type or "default") if rope else "default"
    if rope is None or kind == "default":
        return Rotary(None, max_positions)
    if (read := _READERS.get(kind)) is None:
        known = ", ".join(_READERS)
        raise BadModel(f"{path}: rope_type {kind!r} is not supported; use one of {known}")
    return read(_Case(rope, max_positions, rope_dim, path))


def _llama3(case: _Case) -> Rotary:
    factor, low, high, original = case.need(
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"
    )
    if high <= low:
        raise BadModel(f"{case.path}: high_freq_factor must be above low_freq_factor")
    return Rotary(RopeScaling(factor, low, high, int(original)), case.max_positions)


def _linear(case: _Case) -> Rotary:
    return Rotary(LinearRope(*case.need("factor")), case.max_positions)


def _dynamic(case: _Case) -> Rotary:
    """The base grows only with sequences longer than the model's positions, and those are not
    served: a base that changes would need the keys of the whole sequence again."""
    case.need("factor")
    return Rotary(None, case.max_positions)


def _yarn(case: _Case) -> Rotary:
    original = case.rope.original_max_position_embeddings or case.max_positions
    factor = case.rope.factor or case.max_positions / original
    scaling = YarnRope(
        factor=factor,
        original_max_position_embeddings=original,
        beta_fast=case.rope.beta_fast or 32.0,
        beta_slow=case.rope.beta_slow or 1.0,
        truncate=case.rope.truncate,
        attention_factor=case.rope.attention_factor or _yarn_attention(case.rope, factor),
    )
    return Rotary(scaling, max(case.max_positions, int(factor * original)))


def _yarn_attention(rope: RopeParameters, factor: float) -> float:
    def magnitude(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    if rope.mscale and rope.mscale_all_dim:
        return magnitude(rope.mscale) / magnitude(rope.mscale_all_dim)
    return magnitude(1.0)


def _longrope(case: _Case) -> Rotary:
    """Without divisors for long sequences the model has the positions of those for short ones."""
    case.need("short_factor", "original_max_position_embeddings")
    short, original = case.rope.short_factor, case.rope.original_max_position_embeddings
    long = case.rope.long_factor
    assert short is not None
    assert original is not None
    for name, factors in (("short_factor", short), ("long_factor", long)):
        if factors is not None and len(factors) != case.rope_dim // 2:
            raise BadModel(f"{case.path}: {name} must have {case.rope_dim // 2} numbers")
    factor = case.rope.factor or case.max_positions / original
    attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    attention = case.rope.attention_factor or attention
    scaling = LongRope(tuple(short), attention, tuple(long or short), original)
    return Rotary(scaling, case.max_positions if long else min(case.max_positions, original))


_READERS: Mapping[str, Callable[[_Case], Rotary]] = {
    "llama3": _llama3,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
}
