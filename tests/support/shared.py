"""Real models, tokenizers and texts that live beside the repository, for tests that want them.

The tests pass without this data: what needs it skips with a reason. `MLC_REQUIRE_SHARED=1` turns
such a skip into a failure, for machines where the data is known to be there.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def shared_root() -> Path:
    """The folder of shared data: $MLC_SHARED, else `shared` beside the repository."""
    return Path(os.environ.get("MLC_SHARED") or REPOSITORY.parent / "shared")


def shared_path(relative: str) -> Path:
    """The shared file or folder of that name; skips the calling test when it is not there."""
    path = shared_root() / relative
    if path.exists():
        return path
    message = f"shared data {relative} is not here; set MLC_SHARED to the folder that holds it"
    if os.environ.get("MLC_REQUIRE_SHARED") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
