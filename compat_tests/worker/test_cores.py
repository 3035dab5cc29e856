"""How many cores a worker uses by default: on directories as the kernel has them."""

import os
from pathlib import Path

import pytest

from dagster_taskiq.worker.cores import Cores, usable_cores

#: What the machine has in these tests.
ALL = 64


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: ALL)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(ALL)), raising=False)


def tree(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """Make a tree with the cgroups of this process, and files below ``/sys/fs/cgroup``."""
    written = {"proc/self/cgroup": cgroup}
    written.update({f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    for name, text in written.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "count"),
    [
        # Version 2, in a container: its own cgroup is the root that it sees.
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/", {"cpu.max": "5000 100000"}, 1),
        # On a host: a unit of systemd, whose slice above it has less.
        (
            "0::/system.slice/workers.service",
            {
                "system.slice/cpu.max": "300000 100000",
                "system.slice/workers.service/cpu.max": "800000 100000",
            },
            3,
        ),
        # The path is the host's, and what is mounted is the container's own.
        ("0::/kubepods/pod1/abc", {"cpu.max": "400000 100000"}, 4),
        ("0::/../../other", {"cpu.max": "400000 100000", "other/cpu.max": "1 100000"}, 4),
        # Version 1, alone and together with an empty version 2.
        (
            "4:memory:/\n3:cpu,cpuacct:/\n0::/",
            {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"},
            3,
        ),
        (
            "1:cpu:/docker/abc",
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "cpu/docker/abc/cpu.cfs_quota_us": "50000",
                "cpu/docker/abc/cpu.cfs_period_us": "50000",
            },
            1,
        ),
    ],
)
def test_a_cgroups_quota_bounds_the_cores(
    cgroup: str, files: dict[str, str], count: int, tmp_path: Path
) -> None:
    assert usable_cores(tree(tmp_path, cgroup, files)) == Cores(count, "cgroup quota")


@pytest.mark.parametrize(
    ("cgroup", "files"),
    [
        ("0::/", {"cpu.max": "max 100000"}),
        ("0::/", {"cpu.max": "6400000 100000"}),
        ("0::/", {"cpu.max": "unreadable"}),
        ("0::/", {}),
        ("2:cpuset:/\n1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}),
    ],
)
def test_without_a_quota_all_cores_count(
    cgroup: str, files: dict[str, str], tmp_path: Path
) -> None:
    assert usable_cores(tree(tmp_path, cgroup, files)) == Cores(ALL, "cores")


def test_without_cgroups_all_cores_count(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == Cores(ALL, "cores")


def test_the_affinity_counts_and_the_lower_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 9}, raising=False)
    assert usable_cores(tmp_path) == Cores(3, "affinity")
    assert usable_cores(tree(tmp_path, "0::/", {"cpu.max": "400000 100000"})).source == "affinity"
    quota = tree(tmp_path, "0::/", {"cpu.max": "200000 100000"})
    assert usable_cores(quota) == Cores(2, "cgroup quota")


def test_where_there_is_no_affinity_the_machines_cores_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores(tmp_path) == Cores(ALL, "cores")
