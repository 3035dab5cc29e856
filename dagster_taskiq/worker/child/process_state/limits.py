"""What the system lets this process do: resource limits, cores, niceness, user."""

import os
import resource
import sys

_RESOURCES = {name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}


class ResourceLimits:
    """The limits of setrlimit(2), soft and hard. A hard one cannot be raised again."""

    name = "resource limits"
    of_thread = False

    def read(self) -> dict[str, tuple[int, int]]:
        """Return all limits, by the names of Python's ``resource`` module."""
        return {name: resource.getrlimit(number) for name, number in _RESOURCES.items()}

    def restore(self, wanted: dict[str, tuple[int, int]]) -> None:
        """Set those that have changed."""
        found = self.read()
        if found == wanted:
            return
        for name, limits in wanted.items():
            if found[name] != limits:
                resource.setrlimit(_RESOURCES[name], limits)


def cores() -> set[int]:
    """Return the cores that the main thread may use; none if the system does not report that."""
    return os.sched_getaffinity(0) if sys.platform == "linux" else set()


def set_cores(wanted: set[int]) -> None:
    """Let the main thread use these cores."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, wanted)


def niceness() -> int:
    """Return how nice the process is (getpriority(2)); only root makes one less nice."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def set_niceness(wanted: int) -> None:
    """Make the process as nice as it was."""
    os.setpriority(os.PRIO_PROCESS, 0, wanted)


def identity() -> tuple[int, ...]:
    """Return the user and group of the process, real and effective."""
    return os.getuid(), os.geteuid(), os.getgid(), os.getegid()


def set_identity(wanted: tuple[int, ...]) -> None:
    """Become who the process was, as far as the system lets it."""
    uid, euid, gid, egid = wanted
    os.setreuid(-1, euid)  # only then may the others be set
    os.setregid(gid, egid)
    os.setreuid(uid, euid)
