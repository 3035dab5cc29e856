"""The side of the commands: which workers on this host answer."""

import socket
import time
from dataclasses import dataclass
from pathlib import Path

from dagster_taskiq.worker.local_status.sockets import (
    SUFFIX,
    LocalStatus,
    StartedWith,
    address_of,
    directory,
    identity,
    is_private,
    remove_stale,
)

#: How long a command waits for the answers of all workers, in seconds; less than a probe of
#: Kubernetes that has been given ten.
ANSWER_SECONDS = 5.0
#: How long it waits for the others when that time is over.
_LEAST_SECONDS = 0.2


@dataclass(frozen=True)
class Answer:
    """The answer of one worker."""

    pid: int
    #: ``None``: it listens, and does not answer, since it is stopped or its event loop is blocked.
    status: LocalStatus | None


def ask_local_workers(started_with: StartedWith | None = None) -> list[Answer]:
    """Ask the workers on this host that this user has started, with the same temporary directory.

    Args:
        started_with: only those that were started with these options; ``None``: all.

    Returns:
        The answer of each, those of the last ones that were started first; workers that have ended
        are not among them.
    """
    place = directory()
    if not is_private(place):
        return []
    found = place.glob(f"{started_with.key if started_with else '*'}-*{SUFFIX}")
    deadline = time.monotonic() + ANSWER_SECONDS
    answers = []
    for path in sorted(found, key=_made_at, reverse=True):
        pid = path.stem.rpartition("-")[2]
        if pid.isdigit():
            answer = _ask(path, int(pid), deadline)
            answers += [answer] if answer else []
    return answers


def _ask(path: Path, pid: int, deadline: float) -> Answer | None:
    """Return the answer on one socket; ``None`` if nobody listens there any more."""
    seen = identity(path)
    with socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(max(_LEAST_SECONDS, deadline - time.monotonic()))
        try:
            with address_of(path) as address:
                asked.connect(address)
            with asked.makefile("rb") as answer:
                line = answer.readline()
            return Answer(pid, LocalStatus.loads(line))
        except (ConnectionRefusedError, FileNotFoundError):
            remove_stale(path, seen)
            return None
        except (OSError, ValueError):
            return Answer(pid, None)


def _made_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
