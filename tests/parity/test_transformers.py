"""Every family against transformers itself: its files and its logits, now and not as recorded.

Needs the extra `parity`; the recorded logits of `integration/test_families.py` need nothing.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mlc_llm.models.folder import open_folder
from support.checkpoints import FIXTURES, load, write_folder
from support.family_configs import CONFIGS
from support.small_models import FolderModel, span

TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def library() -> ModuleType:
    """What drives transformers; skips where the extra is not installed."""
    pytest.importorskip("torch", reason="the extra `parity` is not installed")
    pytest.importorskip("transformers", reason="the extra `parity` is not installed")
    from support import transformers_model

    return transformers_model


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(name: str, library: ModuleType, tmp_path: Path) -> None:
    """Of a folder whose config.json the library wrote, in its own spelling."""
    config = CONFIGS[name]
    tensors, written = library.describe(config, tmp_path / "described")
    write_folder(tmp_path / "old", config, tensors)
    write_folder(tmp_path / "new", written, tensors)
    old, new = (open_folder(tmp_path / kind).architecture for kind in ("old", "new"))
    assert old == new
    ids = np.random.default_rng(11).integers(3, old.vocab_size - 1, 290).astype(np.int32)
    expected = library.logits(tmp_path / "new", ids)
    model = FolderModel(tmp_path / "new", "q0f32")
    tokens = ids.tolist()
    for start, stop in pairwise((0, 5, 150, 280)):
        (found,) = model.run(span(0, start, tokens[start:stop]))
        np.testing.assert_allclose(found, expected[stop - 1], rtol=0, atol=TOLERANCE)
    for position in range(280, 290):
        (found,) = model.run(span(0, position, tokens[position : position + 1]))
        np.testing.assert_allclose(found, expected[position], rtol=0, atol=TOLERANCE)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", CONFIGS)
def test_the_recorded_logits_are_still_those_of_transformers(
    name: str, library: ModuleType, tmp_path: Path
) -> None:
    recorded, now = load(FIXTURES / f"{name}.npz"), library.record(CONFIGS[name], tmp_path)
    assert recorded.tensors == now.tensors
    np.testing.assert_allclose(recorded.logits, now.logits, rtol=0, atol=1e-4)
