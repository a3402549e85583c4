"""How many threads kernels get, on machines of other shapes than this one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlc_llm.errors import BadConfig
from mlc_workers.runner.cores import asked_threads, usable_cores


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


def machine(root: Path, cores: dict[str, list[int]], name: str = "core_cpus_list") -> None:
    """Files of /sys that say which processors share a core."""
    for siblings, processors in cores.items():
        for processor in processors:
            write(root, f"sys/devices/system/cpu/cpu{processor}/topology/{name}", siblings)


@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
def test_two_threads_of_a_core_count_once(tmp_path: Path, name: str) -> None:
    machine(tmp_path, {"0,4": [0, 4], "1,5": [1, 5], "2,6": [2, 6], "3,7": [3, 7]}, name)
    assert usable_cores(tmp_path, range(8)) == 4
    assert usable_cores(tmp_path, {0, 4}) == 1
    assert usable_cores(tmp_path, {0, 1, 5}) == 2


def test_where_nothing_is_known_every_processor_is_a_core(tmp_path: Path) -> None:
    assert usable_cores(tmp_path, range(6)) == 6
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000", 8), ("50000 100000", 1), ("250000 100000", 3), ("9900000 100000", 8)],
)
@pytest.mark.parametrize("folder", ["", "outer/", "outer/inner/"])
def test_a_quota_anywhere_above_limits(tmp_path: Path, folder: str, text: str, cores: int) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/outer/inner")
    write(tmp_path, f"sys/fs/cgroup/{folder}cpu.max", text)
    assert usable_cores(tmp_path, range(8)) == cores


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("50000", 1), ("400000", 4)])
def test_a_quota_of_the_first_kind_of_control_groups_limits(
    tmp_path: Path, mount: str, quota: str, cores: int
) -> None:
    write(tmp_path, "proc/self/cgroup", f"5:memory:/x\n4:{mount}:/docker/abc\n0::/")
    write(tmp_path, f"sys/fs/cgroup/{mount}/cpu.cfs_quota_us", quota)
    write(tmp_path, f"sys/fs/cgroup/{mount}/cpu.cfs_period_us", "100000")
    assert usable_cores(tmp_path, range(8)) == cores


def test_the_environment_may_ask_for_threads() -> None:
    assert asked_threads({}) is None
    assert asked_threads({"TVM_NUM_THREADS": ""}) is None
    assert asked_threads({"TVM_NUM_THREADS": " 3 "}) == 3


@pytest.mark.parametrize("asked", ["0", "-1", "many", "1.5", "99999"])
def test_what_is_no_number_of_threads_is_refused(asked: str) -> None:
    with pytest.raises(BadConfig, match=f"TVM_NUM_THREADS={asked} is not a number of threads"):
        asked_threads({"TVM_NUM_THREADS": asked})
