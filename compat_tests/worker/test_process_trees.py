"""Finding the processes below one, and ending them."""

import subprocess

import psutil
import pytest

from compat_tests.waiting import eventually
from dagster_taskiq.worker import process_trees


@pytest.fixture
def family() -> "subprocess.Popen[bytes]":
    """A shell in which another one waits for a program."""
    return subprocess.Popen(["sh", "-c", "sh -c 'sleep 600; true'; true"])


def test_descendants_are_found_and_end_with_the_first_of_them(
    family: "subprocess.Popen[bytes]",
) -> None:
    below = psutil.Process(family.pid)
    eventually(lambda: len(below.children(recursive=True)) == 2)
    known = [each.pid for each in below.children(recursive=True)]
    assert process_trees.descendants_of(family.pid) == known
    process_trees.kill_tree(family.pid)
    assert family.wait() == -9
    eventually(lambda: not any(psutil.pid_exists(each) for each in known))


def test_children_are_found_also_where_the_kernel_does_not_list_them(
    family: "subprocess.Popen[bytes]",
) -> None:
    own = psutil.Process().pid
    try:
        assert sorted(process_trees._scan(own)) == sorted(process_trees.children_of(own))
        assert family.pid in process_trees.children_of(own)
    finally:
        process_trees.kill_tree(family.pid)
        family.wait()
    assert process_trees.children_of(family.pid) == []


def test_a_zombie_is_reaped_when_it_is_seen_for_the_second_time() -> None:
    forgotten = subprocess.Popen(["true"])
    zombie = psutil.Process(forgotten.pid)
    eventually(lambda: zombie.status() == psutil.STATUS_ZOMBIE)
    seen = process_trees.reap_unclaimed(set())
    assert forgotten.pid in seen
    assert zombie.status() == psutil.STATUS_ZOMBIE
    assert forgotten.pid not in process_trees.reap_unclaimed(seen)
    assert not psutil.pid_exists(forgotten.pid)
    forgotten.returncode = 0
