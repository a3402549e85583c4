"""The pool has the bytes that sizing counted."""

from __future__ import annotations

import numpy as np
import pytest

from mlc_llm.models.architecture import Latent
from mlc_llm.quantization.scheme import SCHEMES, Scheme, with_kv
from mlc_llm.serve.sizing import kv_bytes_per_page
from mlc_workers.runner.pool import copy_pages, new_pool, page_bytes, pool_shape
from support.folders import tiny_llama

LATENT = Latent(rank=48, rope_dim=32, nope_dim=16, value_dim=16)


EIGHT_BITS = with_kv(SCHEMES["q4f16_1"], "int8")


@pytest.mark.parametrize("changed", [{}, {"head_dim": 20}, {"latent": LATENT}])
@pytest.mark.parametrize("scheme", [*SCHEMES.values(), EIGHT_BITS], ids=lambda s: s.kv_dtype)
def test_a_page_takes_what_sizing_counts(scheme: Scheme, changed: dict[str, object]) -> None:
    arch = tiny_llama(**changed)
    assert page_bytes(arch, scheme) == kv_bytes_per_page(arch, scheme)


def test_latents_are_kept_once_for_all_heads() -> None:
    scheme = SCHEMES["q0f32"]
    assert pool_shape(tiny_llama(latent=LATENT), scheme, 7) == (2, 7, 1, 1, 16 * 80)


def test_scales_of_eight_bits_lie_behind_the_numbers_of_their_page() -> None:
    assert pool_shape(tiny_llama(head_dim=20), EIGHT_BITS, 7)[-1] == 16 * (32 + 4)


def test_a_copied_page_takes_its_scales_along() -> None:
    pool = new_pool(tiny_llama(), EIGHT_BITS, 3)
    pool[:] = np.random.default_rng(0).integers(0, 256, pool.shape)
    before = pool.copy()
    copy_pages(pool, ((0, 2),))
    np.testing.assert_array_equal(pool[:, 2], before[:, 0])
    np.testing.assert_array_equal(pool[:, :2], before[:, :2])
