"""Encoders compute the hidden states that transformers recorded for the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mlc_workers.scheduler.plan import Span
from support.checkpoints import FIXTURES, load, write_folder
from support.family_configs import ENCODERS
from support.small_models import CompiledModel, FolderModel, SmallModel, architecture

TOLERANCE = 1e-3


def text(row: int, ids: list[int]) -> Span:
    """A whole input, all of whose hidden states are wanted."""
    return Span(row, 0, ids, False, 0, len(ids), pooled=True)


def states(model: CompiledModel, *texts: list[int]) -> list[NDArray[np.float64]]:
    """The hidden states of each text, all computed in one step."""
    model.run(*(text(row, ids) for row, ids in enumerate(texts)))
    ends = np.cumsum([len(ids) for ids in texts])
    return np.split(model.runner.hidden().copy(), ends[:-1])


@pytest.mark.parametrize("name", ENCODERS)
def test_hidden_states_are_the_recorded_ones(name: str, tmp_path: Path) -> None:
    recorded = load(FIXTURES / f"{name}.npz")
    assert recorded.config in ENCODERS.values()
    write_folder(tmp_path, recorded.config, recorded.tensors)
    model, ids = FolderModel(tmp_path, "q0f32"), recorded.ids.tolist()
    texts = [ids[: end + 1] for end in recorded.positions.tolist()]
    for found, expected in zip(states(model, *texts), recorded.logits, strict=True):
        both = np.concatenate([found[0], found[-1]])
        np.testing.assert_allclose(both, expected, rtol=0, atol=TOLERANCE)
    together = states(model, *texts)
    for row, ids in enumerate(texts):
        np.testing.assert_array_equal(states(model, ids)[0], together[row])


def test_an_encoder_of_4_bits_is_near_the_oracle() -> None:
    arch = architecture(
        norm="layer", norm_bias=True, norms="sum", qkv_bias=True, out_bias=True, mlp_bias=True,
        gated=False, activation="gelu", learned_positions=True, encoder=True, token_types=2,
        embedding_norm=True,
    )  # fmt: skip
    model = SmallModel(arch, "q4f16_1")
    rng = np.random.default_rng(3)
    texts = [rng.integers(0, arch.vocab_size, size).tolist() for size in (1, 40, 17)]
    for found, ids in zip(states(model, *texts), texts, strict=True):
        np.testing.assert_allclose(found, model.oracle.logits(ids), rtol=0, atol=0.2)
