"""Processes and those they have started: finding them, and ending them, some by the kernel.

On Linux a process can be made the one to which the orphans among its descendants come, so that
whatever a step starts stays below the child that runs the step, in whatever session or group it
puts itself. Elsewhere there are only process groups, and what has left the group of its child is
not found.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path

#: ``prctl`` (linux/prctl.h): the signal this process gets when its parent dies.
_PR_SET_PDEATHSIG = 1
#: ``prctl``: whether orphans among the descendants of this process become its children.
_PR_SET_CHILD_SUBREAPER = 36

#: How long :func:`end_children` tries, in seconds. A process that was sent SIGKILL is gone within
#: milliseconds, unless it waits for a device that does not answer.
END_SECONDS = 5.0
#: The pause between two looks at whether they have gone, in seconds.
_LOOK_SECONDS = 0.001

#: Whether the kernel can end a process when its parent dies, and hand orphans to an ancestor.
KERNEL_ENDS_CHILDREN = sys.platform == "linux"


def adopt_orphans() -> None:
    """Let descendants of this process become its children when their own parents die (Linux)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies (Linux).

    Args:
        parent: the process id of the parent. If it has died before this took effect, this
            process ends here.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def has_children() -> bool:
    """Whether this process has any child, zombies included; takes microseconds.

    True if the system can only find out by reaping one.
    """
    if not hasattr(os, "waitid"):  # macOS
        return True
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return True
    return False


def children_of(pid: int) -> list[int]:
    """Return the children of a process, zombies included; none if that is not known."""
    if not KERNEL_ENDS_CHILDREN:
        return []
    found: list[int] = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    except FileNotFoundError:
        # It has just ended; or this kernel was built without these files.
        return [] if Path("/proc/self/task", str(os.getpid()), "children").exists() else _scan(pid)
    except ProcessLookupError:
        return []
    return found


def descendants_of(pid: int) -> list[int]:
    """Return the children of a process, theirs, and so on."""
    found: list[int] = []
    level = children_of(pid)
    while level:
        found += level
        level = [child for each in level for child in children_of(each)]
    return found


def kill_tree(pid: int) -> None:
    """Send SIGKILL to a process, to its descendants, and to the group it leads, if it leads one."""
    for each in [pid, *descendants_of(pid)]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(each, signal.SIGKILL)
    kill_group(pid)


def kill_group(leader: int) -> None:
    """Send SIGKILL to a process group, if there is one of that number."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def end_children(spared: Collection[int] = ()) -> int:
    """Kill all descendants of this process, and reap them.

    For a process that :func:`adopt_orphans`: what a killed child leaves behind comes to it and is
    killed as well. What cannot be killed (it waits for a device, or belongs to another user) is
    left after ``END_SECONDS``.

    Args:
        spared: children that are left alone, with what is below them.

    Returns:
        How many processes were killed.
    """
    killed: set[int] = set()
    until = time.monotonic() + END_SECONDS
    while True:
        _reap()
        alive = [pid for pid in children_of(os.getpid()) if pid not in spared]
        if not alive or time.monotonic() > until:
            return len(killed)
        for pid in alive:
            killed.update((pid, *descendants_of(pid)))
            kill_tree(pid)
        time.sleep(_LOOK_SECONDS)


def reap_unclaimed(seen: Collection[int]) -> set[int]:
    """Reap the zombies among the children of this process for which no code waits.

    For a process that is the first of a container, which becomes the parent of all orphans there,
    also those of other programs. Code that has started a child waits for it sooner or later. So a
    process that was a zombie at the call before this one is awaited by no code.

    Args:
        seen: what this returned when it was called before.

    Returns:
        The zombies that are left.
    """
    zombies = {pid for pid in children_of(os.getpid()) if _stat(pid)[:1] == ["Z"]}
    for pid in zombies.intersection(seen):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return zombies.difference(seen)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _scan(parent: int) -> list[int]:
    """Find the children of a process by looking at all processes there are."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _stat(int(entry.name))[1:2] == [str(parent)]:
            found.append(int(entry.name))
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/<pid>/stat`` behind the name: state, parent, and so on."""
    try:
        # The name stands in parentheses, and may have any character in it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []  # it has just gone


def _prctl(option: int, value: int) -> None:
    if KERNEL_ENDS_CHILDREN:
        # What an older kernel, or a sandbox that imitates one, does not know is done without.
        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)
