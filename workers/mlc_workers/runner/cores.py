"""How many threads kernels get unless somebody says otherwise: the physical cores of this process.

Threads of one core share its multipliers and its caches, so a second one on it only makes every
parallel region wait for the slower of the two. Reads /proc and /sys of Linux; where they say
nothing, each processor is a core of its own and no quota holds.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from mlc_llm.control_groups import control_groups
from mlc_llm.errors import BadConfig

THREADS_VARIABLE = "TVM_NUM_THREADS"
MAX_THREADS = 1024
SIBLINGS = ("core_cpus_list", "thread_siblings_list")
"""Who shares a core, by the newer name and by the one before Linux 5.3."""


def asked_threads(environ: Mapping[str, str] = os.environ) -> int | None:
    """What TVM_NUM_THREADS asks for, or None. Raises `BadConfig` for what is no such number."""
    asked = environ.get(THREADS_VARIABLE, "").strip()
    if not asked:
        return None
    if asked.isdecimal() and 1 <= int(asked) <= MAX_THREADS:
        return int(asked)
    raise BadConfig(
        f"{THREADS_VARIABLE}={asked} is not a number of threads from 1 to {MAX_THREADS}; unset it"
    )


def usable_cores(root: Path = Path("/"), processors: Collection[int] | None = None) -> int:
    """Physical cores that this process may use, at least 1: those of its processors (None: its
    affinity), and no more than its control groups give it time for, rounded up.

    `root` stands for / in tests.
    """
    mine = os.sched_getaffinity(0) if processors is None else processors
    cores = len({_siblings(root, processor) for processor in mine})
    quotas = (quota for folder in control_groups(root, "cpu") for quota in _quota(folder))
    return max(1, min([cores, *quotas]))


def _siblings(root: Path, processor: int) -> str:
    """The processors of one core, the same text for each of them."""
    topology = root / f"sys/devices/system/cpu/cpu{processor}/topology"
    for name in SIBLINGS:
        try:
            return (topology / name).read_text().strip()
        except OSError:
            continue
    return str(processor)


def _quota(folder: Path) -> Iterator[int]:
    """The limit of one group, if it sets one: "max" and -1 are none."""
    try:
        if (folder / "cpu.max").is_file():
            allowed, period = (folder / "cpu.max").read_text().split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            allowed, period = ((folder / name).read_text() for name in names)
        if int(allowed) > 0:
            yield -(-int(allowed) // int(period))
    except (OSError, ValueError):
        return
