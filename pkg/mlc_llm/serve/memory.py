"""How much memory this process may still take: the machine's, or less where a cgroup caps it.

Reads /proc and /sys on Linux; elsewhere it asks the C library how many pages the machine has.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from mlc_llm.control_groups import control_groups

FILES = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)
"""Of a control group: its limit and what is used, in the newer version and the older."""


class Memory(Struct, frozen=True):
    """Host memory in bytes."""

    free_bytes: int
    """What can be taken without pushing anything else out."""
    total_bytes: int
    source: str
    """Who says so, for people to read."""


def host_memory(root: Path = Path("/")) -> Memory:
    """Memory that is really free now. `root` stands for / in tests."""
    meminfo = _meminfo(root)
    if meminfo is None:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Memory(total // 2, total, "half of the physical memory")
    memory = meminfo
    for limit, used, name in _cgroups(root):
        if limit < memory.total_bytes or limit - used < memory.free_bytes:
            free = max(0, min(memory.free_bytes, limit - used))
            memory = Memory(free, min(limit, memory.total_bytes), name)
    return memory


def _meminfo(root: Path) -> Memory | None:
    """/proc/meminfo; None where there is none."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if ":" in line}
    if "MemAvailable" not in kib or "MemTotal" not in kib:
        return None
    return Memory(kib["MemAvailable"] * 1024, kib["MemTotal"] * 1024, "free memory")


def _cgroups(root: Path) -> Iterator[tuple[int, int, str]]:
    """(limit, used, name) of every memory cgroup around this process, innermost first."""
    for folder in control_groups(root, "memory"):
        for files in FILES:
            if (found := _limit(folder, *files)) is not None:
                yield *found, f"memory limit of the control group {folder}"


def _limit(folder: Path, limit_file: str, used_file: str) -> tuple[int, int] | None:
    """A group's limit and what of it cannot be taken back; None where it sets no limit."""
    try:
        limit = (folder / limit_file).read_text().strip()
        used = int((folder / used_file).read_text())
        stat = (folder / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    fields = dict(line.split(maxsplit=1) for line in stat if " " in line)
    # Page cache that nobody uses counts as used by the group and is given back on demand.
    reclaimable = int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
    return int(limit), max(0, used - reclaimable)
