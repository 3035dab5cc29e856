"""The tasks that have ended lately, as workers report them: each once, newest first, up to a limit.

Workers list what has ended only while somebody watches, and only the last of it. How many have
ended is known from their counts.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from dagster_taskiq.monitor.snapshot import EndedView
from dagster_taskiq.wire.records import Worker
from dagster_taskiq.wire.task_counts import EndedTask

#: How long a task that has ended is listed, in seconds.
LISTED_SECONDS = 900.0
#: How many are listed at most.
LISTED_TASKS = 2000


@dataclass(frozen=True)
class _Listed:
    #: Which one of all that were ever listed; later ones have higher numbers.
    number: int
    #: When the task ended, by the clock of its worker, or when that was heard, if sooner.
    at: float
    key: tuple[str, str, int, float]
    view: EndedView


class EndedList:
    """The tasks that have ended in the last 15 minutes."""

    def __init__(self) -> None:
        self._listed: deque[_Listed] = deque()
        self._keys: set[tuple[str, str, int, float]] = set()
        #: When how many have ended, listed or not, oldest first.
        self._ended: deque[tuple[float, int]] = deque()
        #: The number of the last one.
        self.last = 0

    def add(self, worker: Worker, tasks: Sequence[EndedTask], ended: int, now: float) -> None:
        """List tasks of a worker; those that are listed already stay as they are.

        Args:
            worker: its record.
            tasks: they.
            ended: how many of its tasks have ended since its last record, as far as is known.
            now: seconds since the epoch.
        """
        new = 0
        for task in tasks:
            key = (worker.id, task.id, task.attempt, task.started_at)
            at = min(now, task.ended_at)
            if key not in self._keys and at >= now - LISTED_SECONDS:
                new += 1
                self.last += 1
                self._keys.add(key)
                self._listed.append(_Listed(self.last, at, key, EndedView(worker.name, task)))
        if new or ended:
            self._ended.append((now, max(new, ended)))
        self.forget(now)

    def forget(self, now: float) -> None:
        """Remove what has ended longer ago, and what is too much."""
        oldest = now - LISTED_SECONDS
        while self._listed and (self._listed[0].at < oldest or len(self._listed) > LISTED_TASKS):
            self._keys.discard(self._listed.popleft().key)
        while self._ended and self._ended[0][0] < oldest:
            self._ended.popleft()

    def newest_first(self, after: int = 0) -> tuple[EndedView, ...]:
        """Return those with a higher number than ``after``, newest first."""
        found = [each.view for each in self._listed if each.number > after]
        return tuple(sorted(found, key=lambda view: view.task.ended_at, reverse=True))

    @property
    def unlisted(self) -> int:
        """How many more have ended in that time."""
        return max(0, sum(count for _, count in self._ended) - len(self._listed))
