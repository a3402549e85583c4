"""`python -m mlc_llm.cli.model_metadata`, as MLC LLM spells `mlc_llm model_metadata`."""

from __future__ import annotations

import sys

from mlc_llm.cli import main

if __name__ == "__main__":
    sys.exit(main(["model_metadata", *sys.argv[1:]]))
