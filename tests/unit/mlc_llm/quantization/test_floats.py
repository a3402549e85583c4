"""The bit tricks give what NumPy's own conversions give, for every 16-bit pattern."""

from __future__ import annotations

import numpy as np

from mlc_llm.quantization.floats import round_bfloats_to_halves, widen_bfloats, widen_halves

ALL = np.arange(1 << 16, dtype=np.uint16)


def test_every_half_widens_to_its_value() -> None:
    finite = ALL[np.isfinite(ALL.view(np.float16))]
    expected = finite.view(np.float16).astype(np.float32)
    assert np.array_equal(widen_halves(finite).view(np.uint32), expected.view(np.uint32))


def test_infinities_and_nans_stay_what_they_are() -> None:
    special = ALL[~np.isfinite(ALL.view(np.float16))]
    assert np.array_equal(
        widen_halves(special), special.view(np.float16).astype(np.float32), equal_nan=True
    )


def test_a_bfloat_is_the_upper_half_of_a_float() -> None:
    assert np.array_equal(widen_bfloats(ALL).view(np.uint32), ALL.astype(np.uint32) << 16)


def test_every_bfloat_within_range_rounds_as_a_cast_to_half_rounds() -> None:
    values = widen_bfloats(ALL)
    inside = ALL[np.abs(values) <= np.finfo(np.float16).max]
    expected = widen_bfloats(inside).astype(np.float16).astype(np.float32)
    assert np.array_equal(round_bfloats_to_halves(inside), expected)


def test_a_bfloat_beyond_half_stays_beyond() -> None:
    values = widen_bfloats(ALL)
    largest = np.finfo(np.float16).max
    inside = np.abs(round_bfloats_to_halves(ALL)) <= largest
    assert np.array_equal(inside, np.abs(values) <= largest)
