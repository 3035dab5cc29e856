"""Names of queues, and how much waits in one."""

from collections.abc import Mapping
from dataclasses import dataclass

#: The end of the name of a run queue.
RUNS_SUFFIX = ":runs"


@dataclass(frozen=True)
class QueueDepth:
    """How much waits in one queue."""

    queue: str
    waiting: int
    #: Messages that a worker has claimed and whose tasks have not started yet; ``None`` if the
    #: server does not tell.
    claimed: int | None
    #: Seconds that the oldest message has waited; a delayed one begins to wait when it is due.
    #: ``None`` if the server does not tell.
    oldest_age: float | None
    #: How many of the waiting messages have each priority, without delayed ones that are not due;
    #: ``None`` if the server does not tell.
    priorities: Mapping[int, int] | None = None


def run_queue(queue: str) -> str:
    """Return the name of the run queue of a queue, in which launched runs wait.

    A run that waits for its own steps must never keep them from being claimed. So runs have a queue
    of their own, and a worker that holds as many runs as it may claims only steps.
    """
    return f"{queue}{RUNS_SUFFIX}"


def is_run_queue(queue: str) -> bool:
    """Return whether a queue is the run queue of another one."""
    return queue.endswith(RUNS_SUFFIX)


def queue_of_run_queue(queue: str) -> str:
    """Return the queue to which a run queue belongs; another queue is returned as it is."""
    return queue.removesuffix(RUNS_SUFFIX)
