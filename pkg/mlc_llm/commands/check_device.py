"""`mlc_llm check_device KIND`: which devices of a kind can be used here."""

from __future__ import annotations

from collections.abc import Sequence

from mlc_llm.arguments import ArgumentParser
from mlc_llm.compiler.target import KINDS, SUPPORTED


def main(argv: Sequence[str]) -> int:
    """Print `check_device:` and the numbers of the devices, which may be none."""
    parser = ArgumentParser("mlc_llm check_device", "List the devices of a kind that can be used.")
    parser.add_argument("kind", metavar="KIND", choices=KINDS)
    kind = parser.parse_args(argv).kind
    print(f"check_device:{'0' if kind in SUPPORTED else ''}")
    return 0
