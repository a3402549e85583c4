"""The pool has the bytes that sizing counted."""

from __future__ import annotations

import pytest

from mlc_llm.models.architecture import Latent
from mlc_llm.quantization.scheme import SCHEMES, Scheme
from mlc_llm.serve.sizing import kv_bytes_per_page
from mlc_workers.runner.pool import page_bytes, pool_shape
from support.folders import tiny_llama

LATENT = Latent(rank=48, rope_dim=32, nope_dim=16, value_dim=16)


@pytest.mark.parametrize("changed", [{}, {"head_dim": 20}, {"latent": LATENT}])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
def test_a_page_takes_what_sizing_counts(scheme: Scheme, changed: dict[str, object]) -> None:
    arch = tiny_llama(**changed)
    assert page_bytes(arch, scheme) == kv_bytes_per_page(arch, scheme)


def test_latents_are_kept_once_for_all_heads() -> None:
    assert pool_shape(tiny_llama(latent=LATENT), 7) == (2, 7, 1, 1, 16 * 80)
