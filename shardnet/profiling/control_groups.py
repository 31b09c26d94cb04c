"""The control groups (version 1 or 2) over this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shardnet.profiling.kernel_files import read_text


def groups_of_process(root: Path, controller: str) -> Iterator[tuple[Path, str, str]]:
    """Each control group over this process: its folder and the names of its limit and of what is used."""
    for line in read_text(root / "proc/self/cgroup").splitlines():
        hierarchy, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        if hierarchy == "0" and not controllers:
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif controller in controllers.split(","):
            base, names = root / "sys/fs/cgroup" / controller, ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = base / path.lstrip("/")
        # In a container the path is the host's; what is mounted is the container's own group.
        yield from ((parent, *names) for parent in (folder, *folder.parents) if parent.is_relative_to(base))
