"""How many cores this process may use: those of its affinity, within the quota of its cgroups.

``os.cpu_count()`` is the whole machine's, also in a container that may use two cores of sixty-four.
A container's limit (``docker run --cpus``, ``resources.limits.cpu`` in Kubernetes) is a quota of
its cgroup; ``taskset`` and cpusets (``docker run --cpuset-cpus``) show in the affinity.
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

#: The directory in which the kernel's file systems are mounted.
ROOT = Path("/")
#: The mount points of cgroups of version 2: alone, or together with those of version 1.
_VERSION_2_MOUNTS = ("sys/fs/cgroup", "sys/fs/cgroup/unified")


class Cores(NamedTuple):
    """How many cores there are to use, and what bounds them."""

    number: int
    #: ``cgroup quota``, ``affinity`` or, if neither bounds it, ``cores``.
    source: str


def usable_cores(root: Path = ROOT) -> Cores:
    """Return how many cores this process may use, at least one.

    Args:
        root: the directory with ``/proc`` and ``/sys``.
    """
    all_cores = os.cpu_count() or 1
    found = Cores(all_cores, "cores")
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        affinity = len(os.sched_getaffinity(0))
        if affinity < all_cores:
            found = Cores(affinity, "affinity")
    quota = min(_quotas(root), default=math.inf)
    if quota < found.number:
        found = Cores(max(1, math.ceil(quota)), "cgroup quota")
    return found


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quota, in cores, of each cgroup that this process is in and that has one."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # there are no cgroups here
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for mount in _VERSION_2_MOUNTS:
                for directory in _with_ancestors(root / mount, path):
                    yield from _quota_of_version_2(directory)
        elif "cpu" in controllers.split(","):
            # Controllers are mounted together, as "cpu,cpuacct", with a link for each of them.
            for directory in _with_ancestors(root / "sys/fs/cgroup/cpu", path):
                yield from _quota_of_version_1(directory)


def _with_ancestors(mount: Path, path: str) -> Iterator[Path]:
    """Yield a cgroup and those above it, as far as they can be seen from here.

    In a container the mount is often the container's own cgroup, while the path is still the
    host's, or leads out of what is mounted (``/../..``): then only the mount is there.
    """
    directory = mount
    yield directory
    for part in path.split("/"):
        if part == "..":
            return
        if part:
            directory /= part
            yield directory


def _quota_of_version_2(directory: Path) -> Iterator[float]:
    # "max 100000", or microseconds of CPU time in each period of so many microseconds.
    with suppress(OSError, ValueError):
        quota, period = (directory / "cpu.max").read_text().split()
        yield float(quota) / float(period) if quota != "max" else math.inf


def _quota_of_version_1(directory: Path) -> Iterator[float]:
    with suppress(OSError, ValueError):
        quota = int((directory / "cpu.cfs_quota_us").read_text())
        period = int((directory / "cpu.cfs_period_us").read_text())
        if quota > 0:  # -1 for none
            yield quota / period
