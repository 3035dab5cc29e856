"""The counts of all workers together, which go on when a worker has ended.

Each worker reports what it has run since it started. What it has run since its last report is added
here, so that nothing is counted twice, and nothing is lost with a worker.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from dagster_taskiq.wire.queues import queue_of_run_queue
from dagster_taskiq.wire.records import Worker
from dagster_taskiq.wire.task_counts import Outcome, TaskCounts, Times

#: For how long the last counts of a worker that is not there any more are remembered, in seconds:
#: its record may come back with data that a server had lost.
REMEMBERED_SECONDS = 86400.0


class Kind(NamedTuple):
    """What is counted together."""

    #: A run queue counts as the queue to which it belongs.
    queue: str
    #: The name of the task.
    name: str
    #: The Dagster job; empty for a user's own tasks.
    job: str


@dataclass
class _Reported:
    """What one worker has reported last."""

    uptime: float
    at: float
    counts: dict[Kind, TaskCounts] = field(default_factory=dict)
    #: How many of its tasks were counted as lost here, because it was silent.
    given_up: Counter[Kind] = field(default_factory=Counter)


class Totals:
    """What all workers have run since this object was made."""

    def __init__(self) -> None:
        self._by_kind: dict[Kind, TaskCounts] = {}
        self._reported: dict[str, _Reported] = {}

    @property
    def counts(self) -> Iterable[TaskCounts]:
        """The sums, one for each kind of task."""
        return self._by_kind.values()

    def add(self, worker: Worker, now: float, *, is_new: bool) -> int:
        """Add what a worker has run since it was added last.

        Args:
            worker: its record. One that is older than the last, or has no counts, changes nothing.
            now: seconds of any clock that is always the same.
            is_new: it has run everything since this object was made. If it was never added, and is
                not new, what it has run until now is not added.

        Returns:
            How many executions have ended by that.
        """
        if worker.counts is None:
            return 0
        last = self._reported.get(worker.id)
        if last is None:
            last = self._reported[worker.id] = _Reported(worker.uptime, now)
            if not is_new:
                last.counts = _by_kind(worker.counts)
                return 0
        elif worker.uptime < last.uptime:
            return 0
        ended = 0
        present = _by_kind(worker.counts)
        for kind, counts in present.items():
            ended += self._add_difference(kind, last.counts.get(kind), counts, last.given_up)
        last.counts, last.uptime, last.at = present, worker.uptime, now
        return ended

    def give_up(self, worker_id: str, tasks: Iterable[Kind]) -> None:
        """Count tasks of a worker as lost that it will not report itself, because it is silent."""
        last = self._reported.get(worker_id)
        for kind in tasks:
            ended = self._sum_of(kind).ended
            ended[Outcome.LOST] = ended.get(Outcome.LOST, 0) + 1
            if last is not None:
                last.given_up[kind] += 1

    def forget(self, now: float) -> None:
        """Forget the last counts of workers that have not been added for a long time."""
        oldest = now - REMEMBERED_SECONDS
        self._reported = {id_: each for id_, each in self._reported.items() if each.at > oldest}

    def _sum_of(self, kind: Kind) -> TaskCounts:
        return self._by_kind.setdefault(kind, TaskCounts(*kind))

    def _add_difference(
        self, kind: Kind, before: TaskCounts | None, now: TaskCounts, given_up: Counter[Kind]
    ) -> int:
        before = before or TaskCounts(*kind)
        total = self._sum_of(kind)
        total.started += max(0, now.started - before.started)
        added = 0
        for outcome, count in now.ended.items():
            more = max(0, count - before.ended.get(outcome, 0))
            if outcome is Outcome.LOST and more:
                # It was silent for longer than its lease, and is back: these may be in it already.
                known = min(more, given_up[kind])
                given_up[kind] -= known
                more -= known
            if more:
                total.ended[outcome] = total.ended.get(outcome, 0) + more
                added += more
        _add_times(total.wait, before.wait, now.wait)
        _add_times(total.run, before.run, now.run)
        return added


def _by_kind(counts: Iterable[TaskCounts]) -> dict[Kind, TaskCounts]:
    return {Kind(queue_of_run_queue(each.queue), each.name, each.job): each for each in counts}


def _add_times(total: Times, before: Times, now: Times) -> None:
    """Add a difference of histograms; those of a release with other buckets are left out."""
    if not len(total.buckets) == len(before.buckets) == len(now.buckets):
        return
    for number, (old, new) in enumerate(zip(before.buckets, now.buckets, strict=True)):
        total.buckets[number] += max(0, new - old)
    total.seconds += max(0.0, now.seconds - before.seconds)


def ended_in_all(counts: Iterable[TaskCounts]) -> Mapping[str, int]:
    """Return how many executions have ended in each way, by the names of ``Outcome``."""
    sums: Counter[str] = Counter()
    for each in counts:
        for outcome, count in each.ended.items():
            sums[outcome.value] += count
    return dict(sums)
