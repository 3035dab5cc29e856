"""Names of queues, and how much waits in one."""

from dataclasses import dataclass

#: What follows a queue's name in that of its lane for runs.
_RUNS = ":runs"


@dataclass(frozen=True)
class QueueDepth:
    """How much waits in one queue."""

    queue: str
    waiting: int
    #: Handed to a worker that has not yet said that it started; ``None`` where the server does not
    #: tell how many those are.
    claimed: int | None
    #: Seconds the oldest message has waited; one that is delayed begins to when it is due.
    oldest_age: float


def run_queue(queue: str) -> str:
    """Return the name of the lane of a queue in which whole runs wait.

    A run that waits for its own steps must never keep them from being taken. So runs wait beside
    the steps, and a worker that holds as many runs as it may looks at the steps alone.
    """
    return f"{queue}{_RUNS}"


def is_run_queue(queue: str) -> bool:
    """Return whether a queue is the lane for runs of another."""
    return queue.endswith(_RUNS)


def queue_of_run_queue(lane: str) -> str:
    """Return the queue, as users name it, to which a lane belongs."""
    return lane.removesuffix(_RUNS)
