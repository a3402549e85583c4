"""`python -m mlc_llm.cli.check_device`, as MLC LLM spells `mlc_llm check_device`."""

from __future__ import annotations

import sys

from mlc_llm.cli import main

if __name__ == "__main__":
    sys.exit(main(["check_device", *sys.argv[1:]]))
