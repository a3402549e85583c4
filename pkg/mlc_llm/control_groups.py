"""The control groups around this process, which may give it less than the machine has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of those that may limit what `controller` counts, innermost first.

    Of both versions, whose files have other names; none where there is no Linux. `root` stands for
    / in tests.
    """
    mounted = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            base = mounted
        elif controller in controllers.split(","):
            places = (mounted / controllers, mounted / controller)
            base = next((place for place in places if place.is_dir()), mounted)
        else:
            continue
        inner = base / path.strip("/")
        # Inside a container the path may name a folder that only the host sees; its root then holds
        # the container's own limit, so the walk always ends at `base`.
        for folder in (inner, *inner.parents):
            yield folder
            if folder == base:
                break
