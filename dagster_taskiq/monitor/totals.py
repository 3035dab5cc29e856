"""The counts of all workers together, which go on when a worker has ended.

Each worker reports what it has run since it started. What it has run since its last report is added
here, so that nothing is counted twice, and nothing is lost with a worker. There are sums of all
workers, and of those of each host and of each name, for as long as one of these is there.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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


class Group(NamedTuple):
    """Workers that are summed: those of one host, or of one name, or all."""

    host: str = ""
    name: str = ""


#: All workers.
ALL = Group()

#: How a task that was counted as lost has ended: the first of these that its worker has counted.
_LIKELY = (
    Outcome.LOST,
    Outcome.REVOKED,
    Outcome.FAILED,
    Outcome.HANDED_OVER,
    Outcome.RETRIED,
    Outcome.SUCCEEDED,
)


@dataclass
class _Reported:
    """What one worker has reported last."""

    groups: tuple[Group, ...]
    uptime: float
    at: float
    counts: dict[Kind, TaskCounts] = field(default_factory=dict)
    #: Its tasks that were counted as lost here, because it was silent, by id and attempt.
    given_up: dict[tuple[str, int], Kind] = field(default_factory=dict)
    #: How many of these it does not run any more, and has not reported to have ended.
    to_end: Counter[Kind] = field(default_factory=Counter)


class Totals:
    """What all workers have run since this object was made."""

    def __init__(self) -> None:
        self._sums: dict[Group, dict[Kind, TaskCounts]] = {ALL: {}}
        self._reported: dict[str, _Reported] = {}

    def of(self, group: Group = ALL) -> Collection[TaskCounts]:
        """Return the sums of a group of workers, one for each kind of task."""
        return self._sums.get(group, {}).values()

    def by_group(self) -> Mapping[Group, Sequence[TaskCounts]]:
        """Return all sums as they are now: no row of them is changed later."""
        return {group: tuple(sums.values()) for group, sums in self._sums.items()}

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
        present = {
            Kind(queue_of_run_queue(each.queue), each.name, each.job): each
            for each in worker.counts
        }
        last = self._reported.get(worker.id)
        if last is None:
            groups = (ALL, Group(host=worker.host), Group(name=worker.name))
            last = self._reported[worker.id] = _Reported(groups, worker.uptime, now)
            last.counts = {} if is_new else present
        elif worker.uptime < last.uptime:
            return 0
        running = {(each.id, each.attempt) for each in worker.running}
        for task in last.given_up.keys() - running:
            last.to_end[last.given_up.pop(task)] += 1
        ended = 0
        for kind, counts in present.items():
            more = _difference(kind, last.counts.get(kind), counts)
            if last.to_end[kind]:
                # It was silent for longer than its lease, and is back: these are counted already.
                last.to_end[kind] -= _take_off(more.ended, last.to_end[kind])
            self._add(last.groups, kind, more)
            ended += sum(more.ended.values())
        last.counts, last.uptime, last.at = present, worker.uptime, now
        return ended

    def give_up(self, worker_id: str, tasks: Mapping[tuple[str, int], Kind]) -> None:
        """Count tasks of a worker as lost that it may not report itself, because it is silent.

        If it is back, how they end is not counted: a counter never goes down. A worker that has
        never reported counts runs a release that has none, and is left out.

        Args:
            worker_id: its id.
            tasks: their kinds, by their ids and attempts.
        """
        last = self._reported.get(worker_id)
        if last is None:
            return
        for task, kind in tasks.items():
            if task not in last.given_up:
                self._add(last.groups, kind, TaskCounts(*kind, ended={Outcome.LOST: 1}))
                last.given_up[task] = kind

    def forget(self, present: Iterable[Worker], now: float) -> None:
        """Forget what was counted by host and name where no worker is any more, and old reports.

        Args:
            present: the workers that are there.
            now: as for :meth:`add`.
        """
        keep = {ALL}
        for worker in present:
            keep |= {Group(host=worker.host), Group(name=worker.name)}
        self._sums = {group: sums for group, sums in self._sums.items() if group in keep}
        oldest = now - REMEMBERED_SECONDS
        self._reported = {id_: each for id_, each in self._reported.items() if each.at > oldest}

    def _add(self, groups: Iterable[Group], kind: Kind, more: TaskCounts) -> None:
        for group in groups:
            sums = self._sums.setdefault(group, {})
            sums[kind] = summed(sums.get(kind, TaskCounts(*kind)), more)


def _take_off(ended: dict[Outcome, int], most: int) -> int:
    """Take executions that are counted already off those that have ended; return how many."""
    taken = 0
    for outcome in _LIKELY:
        count = min(ended.get(outcome, 0), most - taken)
        if count:
            ended[outcome] -= count
            taken += count
    return taken


def _difference(kind: Kind, before: TaskCounts | None, now: TaskCounts) -> TaskCounts:
    """Return what has come to the counts of a worker; nothing where there is less than before."""
    old = before or TaskCounts(*kind)
    ended = {
        outcome: max(0, count - old.ended.get(outcome, 0)) for outcome, count in now.ended.items()
    }
    return TaskCounts(
        *kind,
        max(0, now.started - old.started),
        ended,
        _times_between(old.wait, now.wait),
        _times_between(old.run, now.run),
    )


def _times_between(before: Times, now: Times) -> Times:
    """Return what has come to a histogram; nothing if it has the buckets of another release."""
    if not len(before.buckets) == len(now.buckets) == len(Times().buckets):
        return Times()
    both = zip(before.buckets, now.buckets, strict=True)
    return Times([max(0, new - old) for old, new in both], max(0.0, now.seconds - before.seconds))


def summed(counts: TaskCounts, more: TaskCounts) -> TaskCounts:
    """Return the sum of counts and others, of the same kind of task as the first."""
    ended = dict(counts.ended)
    for outcome, count in more.ended.items():
        ended[outcome] = ended.get(outcome, 0) + count
    return replace(
        counts,
        started=counts.started + more.started,
        ended=ended,
        wait=_sum_of_times(counts.wait, more.wait),
        run=_sum_of_times(counts.run, more.run),
    )


def _sum_of_times(times: Times, more: Times) -> Times:
    both = zip(times.buckets, more.buckets, strict=True)
    return Times([one + other for one, other in both], times.seconds + more.seconds)


def ended_in_all(counts: Iterable[TaskCounts]) -> Mapping[str, int]:
    """Return how many executions have ended in each way, by the names of ``Outcome``."""
    sums: Counter[str] = Counter()
    for each in counts:
        for outcome, count in each.ended.items():
            sums[outcome.value] += count
    return dict(sums)
