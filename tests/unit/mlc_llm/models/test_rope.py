"""The rotary table against the published definitions."""

from __future__ import annotations

import numpy as np
import pytest

from mlc_llm.models.architecture import Architecture, LongRope, RopeScaling
from mlc_llm.models.rope import frequencies, rope_table


def model(scaling: RopeScaling | LongRope | None = None) -> Architecture:
    return Architecture(
        model_type="llama",
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=64,
        vocab_size=16,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling=scaling,
        context_window_size=131072,
    )


def test_the_first_position_does_not_turn() -> None:
    table = rope_table(model(), 3)
    np.testing.assert_array_equal(table[0], [1.0] * 32 + [0.0] * 32)


def test_angles_stay_exact_far_into_the_context() -> None:
    table = rope_table(model(), 100_001)
    for pair in (0, 1, 31):
        angle = 100_000 * 500000.0 ** (-2 * pair / 64)
        assert table[-1, pair] == pytest.approx(np.cos(angle), abs=1e-7)
        assert table[-1, 32 + pair] == pytest.approx(np.sin(angle), abs=1e-7)


def test_llama3_scaling_keeps_fast_pairs_and_slows_slow_ones() -> None:
    plain, scaled = frequencies(model(), 9), frequencies(model(RopeScaling(8.0, 1.0, 4.0, 8192)), 9)
    wavelength = 2 * np.pi / plain
    np.testing.assert_array_equal(scaled[wavelength < 8192 / 4], plain[wavelength < 8192 / 4])
    np.testing.assert_allclose(scaled[wavelength > 8192], plain[wavelength > 8192] / 8)
    between = (wavelength > 8192 / 4) & (wavelength < 8192)
    assert between.any()
    assert np.all(scaled[between] < plain[between])
    assert np.all(scaled[between] > plain[between] / 8)


def test_sequences_past_the_original_positions_have_divisors_of_their_own() -> None:
    short, long = np.linspace(1, 2, 32), np.linspace(3, 9, 32)
    arch = model(LongRope(tuple(short), 1.5, tuple(long), 100))
    plain = 500000.0 ** (-np.arange(32) / 32)
    for positions, divisors in ((100, short), (101, long)):
        found = rope_table(arch, positions)[99, :32]
        np.testing.assert_allclose(found, 1.5 * np.cos(99 * plain / divisors), atol=1e-6)
