"""Every family computes the logits that transformers recorded for the same weights.

`tools/record_family_logits.py` makes the fixtures in `families/`.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mlc_llm.models.registry import FAMILIES
from support.checkpoints import FIXTURES, Recorded, load, write_folder
from support.family_configs import CONFIGS, ENCODERS
from support.small_models import FolderModel, span

TOLERANCE = 1e-3
DECODED = 3


class Case:
    """A recorded model and the same one compiled."""

    def __init__(self, recorded: Recorded, folder: Path) -> None:
        write_folder(folder, recorded.config, recorded.tensors)
        self.recorded = recorded
        self.ids: list[int] = recorded.ids.tolist()
        self.model = FolderModel(folder, "q0f32")

    def check(self, found: np.ndarray, position: int) -> None:
        """Logits after the token at a recorded position."""
        index = self.recorded.positions.tolist().index(position)
        expected = self.recorded.logits[index]
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    recorded = load(FIXTURES / f"{request.param}.npz")
    return Case(recorded, tmp_path_factory.mktemp(request.param))


def test_the_fixture_is_of_the_family_as_published(case: Case) -> None:
    assert case.recorded.config in CONFIGS.values()
    assert np.abs(case.recorded.logits).max() > 100 * TOLERANCE
    assert len(np.unique(case.recorded.logits.argmax(-1))) > 1


def test_whole_prompts_chunks_and_decoded_tokens_have_the_recorded_logits(case: Case) -> None:
    positions, ids = case.recorded.positions.tolist(), case.ids
    whole = case.model.run(*(span(row, 0, ids[: end + 1]) for row, end in enumerate(positions[:8])))
    for row, position in enumerate(positions[:8]):
        case.check(whole[row], position)
    last = positions[-1]
    for start, stop in pairwise((0, 1, 100, 233, last - DECODED)):
        case.model.run(span(8, start, ids[start:stop], sample=False))
    for position in range(last - DECODED, last + 1):
        (decoded,) = case.model.run(span(8, position, [ids[position]]))
    case.check(decoded, last)


def test_logits_are_bitwise_the_same_alone_and_in_a_batch_of_chunks(case: Case) -> None:
    ids = case.ids
    alone = case.model.run(span(0, 0, ids[:290]))[0]
    for start, stop in pairwise((0, 127, 129, 200, 290)):
        filler = span(1, 0, ids[:37])
        chunked = case.model.run(filler, span(2, start, ids[start:stop]))[1]
    np.testing.assert_array_equal(chunked, alone)
    case.model.run(span(3, 0, ids[:289], sample=False))
    decoded = case.model.run(span(3, 289, ids[289:290]), span(4, 0, ids[:20]))[0]
    np.testing.assert_array_equal(decoded, alone)


def test_every_family_is_recorded() -> None:
    recorded = {**CONFIGS, **ENCODERS}
    assert {config["model_type"] for config in recorded.values()} >= set(FAMILIES)
