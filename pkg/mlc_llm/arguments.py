"""The argument parser of every command: mistakes are answered as MLC LLM answers them.

The whole help goes to standard output, then the mistake to standard error, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from mlc_llm.errors import one_line


class ArgumentParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` with a wider view of what to print when something is wrong.

    Flags are written in full: an abbreviation would change its meaning with the next flag we add.
    """

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        print("======================= Usage =======================")
        self.print_help(sys.stdout)
        sys.stdout.flush()
        print("======================= Error =======================", file=sys.stderr)
        print(f"{self.prog}: error: {one_line(message)}", file=sys.stderr)
        sys.exit(2)
