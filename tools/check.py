"""One command that checks everything: format, lint, types, import contracts, fast tests.

python tools/check.py            # all
python tools/check.py mypy       # one of: format lint mypy pyright imports tests
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("pkg", "workers", "api", "tests")

CHECKS: dict[str, list[str]] = {
    "format": [sys.executable, "-m", "ruff", "format", "--check", "."],
    "lint": [sys.executable, "-m", "ruff", "check", "."],
    "mypy": [sys.executable, "-m", "mypy"],
    "pyright": [sys.executable, "-m", "pyright", "--pythonpath", sys.executable],
    "imports": [str(Path(sys.executable).with_name("lint-imports"))],
    "tests": [sys.executable, "-m", "pytest", "-q", "tests/unit"],
}


def run(name: str) -> bool:
    """Run one check in the repository root and print how it went."""
    path = os.pathsep.join(str(ROOT / room) for room in ROOMS)
    started = time.monotonic()
    done = subprocess.run(
        CHECKS[name],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    verdict = "ok" if done.returncode == 0 else "FAILED"
    print(f"{name:8} {verdict:6} {time.monotonic() - started:5.1f} s", flush=True)
    if done.returncode != 0:
        print(done.stdout + done.stderr, flush=True)
    return done.returncode == 0


def main(names: list[str]) -> int:
    """Run the named checks, or all of them; 1 when any failed."""
    if unknown := set(names) - set(CHECKS):
        print(f"unknown check {', '.join(sorted(unknown))}; known: {', '.join(CHECKS)}")
        return 2
    results = [run(name) for name in (names or list(CHECKS))]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
