"""How many real JSON schemas can be followed, and how many judge their values rightly. Prints.

    PYTHONPATH=pkg:workers:tests python tests/bench/schemas.py [--maskbench FILE] [--suite FOLDER]

FILE has a schema of MaskBench in each line, with valid and invalid values; FOLDER is `tests` of the
JSON-Schema-Test-Suite. `--wrong` lists every value that was judged wrongly.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

from support.grammar_walks import Walker
from support.schema_suites import Case, judge, mask_bench, standard_suite

MOST_REASONS = 12


def show(name: str, cases: Iterable[Case], wrong: bool) -> None:
    """A summary of one suite."""
    started = time.perf_counter()
    found = judge(Walker(), cases)
    print(
        f"{name}: {found.num_schemas} schemas, {found.num_followed} right "
        f"({found.num_followed / found.num_schemas:.1%}), {found.refused.total()} refused, "
        f"{len(found.accepted_wrongly)} values accepted and {len(found.rejected_wrongly)} rejected "
        f"wrongly; {time.perf_counter() - started:.1f} s"
    )
    for reason, count in found.refused.most_common(MOST_REASONS):
        print(f"{count:6}  {reason}")
    if wrong:
        for kind, values in zip(("accepted", "rejected"), found[-2:], strict=True):
            for case, text in values:
                print(f"  {kind}: {case}: {text[:200]}")


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--maskbench", type=Path)
    parser.add_argument("--suite", type=Path)
    parser.add_argument("--wrong", action="store_true")
    args = parser.parse_args()
    if args.maskbench:
        show("MaskBench", mask_bench(args.maskbench), args.wrong)
    if args.suite:
        show("JSON-Schema-Test-Suite", standard_suite(args.suite), args.wrong)


if __name__ == "__main__":
    main()
