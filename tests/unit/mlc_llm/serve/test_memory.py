"""Free memory is what the machine has, less where a control group allows less."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlc_llm.serve.memory import host_memory

GIB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """24 GiB, 16 of them free, no control groups."""
    meminfo = f"MemTotal: {24 << 20} kB\nMemFree: 1 kB\nMemAvailable: {16 << 20} kB\n"
    return write(tmp_path, {"proc/meminfo": meminfo})


def test_without_control_groups_the_machine_decides(machine: Path) -> None:
    memory = host_memory(machine)
    assert (memory.free_bytes, memory.total_bytes) == (16 * GIB, 24 * GIB)
    assert memory.source == "free memory"


def test_a_group_s_limit_counts_less_its_use_but_not_its_idle_page_cache(machine: Path) -> None:
    group = "sys/fs/cgroup/slice/"
    write(
        machine,
        {
            "proc/self/cgroup": "0::/slice/job\n",
            group + "job/memory.max": "max\n",
            group + "job/memory.current": "1\n",
            group + "job/memory.stat": "inactive_file 0\n",
            group + "memory.max": str(8 * GIB),
            group + "memory.current": str(5 * GIB),
            group + "memory.stat": f"anon 1\ninactive_file {2 * GIB}\n",
        },
    )
    memory = host_memory(machine)
    assert (memory.free_bytes, memory.total_bytes) == (5 * GIB, 8 * GIB)
    assert "/slice" in memory.source


def test_the_older_kind_of_groups_is_read_too(machine: Path) -> None:
    base = "sys/fs/cgroup/memory/"
    write(
        machine,
        {
            "proc/self/cgroup": "5:cpu:/x\n4:memory:/seen/from/outside\n",
            base + "memory.limit_in_bytes": str(4 * GIB),
            base + "memory.usage_in_bytes": str(1 * GIB),
            base + "memory.stat": "total_inactive_file 0\n",
        },
    )
    assert host_memory(machine).free_bytes == 3 * GIB


def test_no_limit_is_no_limit(machine: Path) -> None:
    base = "sys/fs/cgroup/memory/"
    write(
        machine,
        {
            "proc/self/cgroup": "4:memory:/\n",
            base + "memory.limit_in_bytes": "9223372036854771712",
            base + "memory.usage_in_bytes": "0",
            base + "memory.stat": "",
        },
    )
    assert host_memory(machine).free_bytes == 16 * GIB


def test_this_machine_can_be_asked() -> None:
    memory = host_memory()
    assert 0 < memory.free_bytes <= memory.total_bytes
