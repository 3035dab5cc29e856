"""The tasks that have ended lately, as workers report them: each once, newest first, up to a limit.

Workers list what has ended only while somebody watches, and only the last of it. How many have
ended is known from their counts. What a worker lists first when it is watched was counted before.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

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
    worker_id: str
    view: EndedView

    @property
    def task(self) -> tuple[str, int]:
        return self.view.task.id, self.view.task.attempt


@dataclass
class _Reported:
    """What one worker has reported."""

    #: When it has reported last.
    at: float = 0.0
    #: What its last list had: a worker lists the same again and again.
    keys: frozenset[tuple[str, int, float]] = frozenset()
    #: When how many have ended that it has not listed, oldest first.
    unlisted: deque[tuple[float, int]] = field(default_factory=deque)
    #: Those that are listed as lost because it was silent, by id and attempt.
    given_up: set[tuple[str, int]] = field(default_factory=set)

    def take(self, count: int) -> None:
        """Take off what is listed now and was counted before: the last of it."""
        while count and self.unlisted:
            at, last = self.unlisted.pop()
            if last > count:
                self.unlisted.append((at, last - count))
            count = max(0, count - last)


class EndedList:
    """The tasks that have ended in the last 15 minutes."""

    def __init__(self) -> None:
        self._listed: deque[_Listed] = deque()
        self._reported: dict[str, _Reported] = {}
        #: When those ended that were listed, and had to go because there were too many.
        self._too_many: deque[float] = deque()
        #: The number of the last one.
        self.last = 0

    def add(self, worker: Worker, ended: int, now: float) -> None:
        """List what a worker has ended; what is listed already stays as it is.

        What it runs or has ended is not listed as lost any more: it was silent, and is back.

        Args:
            worker: its record.
            ended: how many of its tasks have ended since its last record, as far as is known.
            now: seconds since the epoch.
        """
        reported = self._reported.setdefault(worker.id, _Reported())
        if reported.given_up:
            self._correct(worker, reported)
        new = 0
        for task in worker.ended:
            at = min(now, task.ended_at)
            if _key(task) not in reported.keys and at >= now - LISTED_SECONDS:
                new += 1
                self._list(worker, task, at)
        if worker.ended:
            reported.keys = frozenset(map(_key, worker.ended))
        if ended > new:
            reported.unlisted.append((now, ended - new))
        reported.take(max(0, new - ended))
        reported.at = now

    def add_lost(self, worker: Worker, tasks: Sequence[EndedTask], now: float) -> None:
        """List tasks as lost that a worker will not report itself, because it is silent."""
        reported = self._reported.setdefault(worker.id, _Reported())
        reported.at = now
        for task in tasks:
            self._list(worker, task, now)
            reported.given_up.add((task.id, task.attempt))

    def forget(self, now: float) -> None:
        """Remove what has ended longer ago, and what is too much."""
        oldest = now - LISTED_SECONDS
        while self._listed and self._listed[0].at < oldest:
            self._listed.popleft()
        while len(self._listed) > LISTED_TASKS:
            self._too_many.append(self._listed.popleft().at)
        while self._too_many and self._too_many[0] < oldest:
            self._too_many.popleft()
        for each in self._reported.values():
            while each.unlisted and each.unlisted[0][0] < oldest:
                each.unlisted.popleft()
        # What such a worker has listed ended too long ago to be listed again.
        self._reported = {id_: each for id_, each in self._reported.items() if each.at >= oldest}

    def newest_first(self, after: int = 0) -> tuple[EndedView, ...]:
        """Return those with a higher number than ``after``, newest first."""
        found = [each.view for each in self._listed if each.number > after]
        return tuple(sorted(found, key=lambda view: view.task.ended_at, reverse=True))

    @property
    def unlisted(self) -> int:
        """How many more have ended in that time."""
        counted = (count for each in self._reported.values() for _, count in each.unlisted)
        return sum(counted) + len(self._too_many)

    def _correct(self, worker: Worker, reported: _Reported) -> None:
        """Remove what is listed as lost, but which its worker runs or has ended."""
        runs = {(task.id, task.attempt) for task in worker.running}
        has_ended = {(task.id, task.attempt) for task in worker.ended}
        wrong = (runs | has_ended) & reported.given_up
        reported.given_up -= wrong
        self._listed = deque(
            each
            for each in self._listed
            if not (each.worker_id == worker.id and each.task in wrong)
        )

    def _list(self, worker: Worker, task: EndedTask, at: float) -> None:
        self.last += 1
        self._listed.append(_Listed(self.last, at, worker.id, EndedView(worker.name, task)))


def _key(task: EndedTask) -> tuple[str, int, float]:
    return task.id, task.attempt, task.started_at
