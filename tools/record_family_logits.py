"""Record the logits that transformers computes for a small model of each family.

    python tools/record_family_logits.py          # all of tests/support/family_configs.py
    python tools/record_family_logits.py qwen3    # one

Needs the extra `parity`. Weights are a function of their names (`support.checkpoints.values`), so a
fixture of a few kilobytes is enough for tests that run without torch.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "pkg"), str(ROOT / "tests")]

from support.checkpoints import FIXTURES  # noqa: E402
from support.family_configs import CONFIGS, ENCODERS  # noqa: E402
from support.transformers_model import record, record_encoder  # noqa: E402


def main(names: list[str]) -> None:
    """Write the fixtures of the named families, or of all."""
    FIXTURES.mkdir(exist_ok=True)
    for name in names or [*CONFIGS, *ENCODERS]:
        with tempfile.TemporaryDirectory() as scratch:
            if name in ENCODERS:
                recorded = record_encoder(ENCODERS[name], Path(scratch))
            else:
                recorded = record(CONFIGS[name], Path(scratch))
        recorded.save(FIXTURES / f"{name}.npz")
        size = (FIXTURES / f"{name}.npz").stat().st_size
        print(f"{name}: {len(recorded.tensors)} tensors, {size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
