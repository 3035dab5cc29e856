"""The model of the fleet: it is told what broker and backend answer, and has what to show of it.

Nothing here waits, and nothing asks a server: :mod:`~dagster_taskiq.monitor.watcher` does that.
"""

import logging
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from dagster_taskiq.monitor.ended_list import LISTED_SECONDS, EndedList
from dagster_taskiq.monitor.snapshot import FleetView, QueueView, RunningView, WorkerView
from dagster_taskiq.monitor.totals import Kind, Totals, ended_in_all
from dagster_taskiq.wire.queues import QueueDepth, queue_of_run_queue
from dagster_taskiq.wire.records import Running, Worker
from dagster_taskiq.wire.task_counts import EndedTask, Outcome

logger = logging.getLogger(__name__)

#: What reading the counts of a heartbeat raises if no worker of ours has written them.
UNREADABLE = (AttributeError, LookupError, TypeError, ValueError, zlib.error)
#: How long a worker may take from its start to its first heartbeat, in seconds. One that was not
#: there at the first look, and is older, has been there before the backend lost its record.
STARTING_SECONDS = 60.0


class Fleet:
    """What is known of the fleet."""

    def __init__(
        self,
        broker: str,
        backend: str,
        heartbeat_interval: float,
        *,
        show_lost: float = LISTED_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Know nothing yet.

        Args:
            broker: its URL, without password.
            backend: likewise.
            heartbeat_interval: the time between two heartbeats of a worker, in seconds.
            show_lost: for how long after the end of its lease a lost worker is shown, in seconds.
            clock: seconds since the epoch.
        """
        self._broker = broker
        self._backend = backend
        self._confirm_seconds = 2 * heartbeat_interval
        self._show_lost = show_lost
        self._clock = clock
        #: What all workers have run since the first look.
        self.totals = Totals()
        self.ended = EndedList()
        #: Why the last look at each server has failed, and what to do; empty if it has not.
        self.troubles = {"broker": "", "backend": ""}
        self._queues_at = self._workers_at = 0.0
        #: When workers were looked at first; 0 if they were not.
        self._began_at = 0.0
        self._depths: tuple[QueueDepth, ...] = ()
        self._rejected = 0
        self._workers: dict[str, Worker] = {}
        #: Since when workers have been silent for longer than their lease, by their ids.
        self._silent_since: dict[str, float] = {}
        #: The ids of those that are lost.
        self._lost: set[str] = set()
        #: The ids of those that have said goodbye; their records may still be there.
        self._gone: set[str] = set()
        #: The ids of those whose counts cannot be read.
        self._unreadable: set[str] = set()
        #: When tasks were first seen, by worker, task and attempt.
        self._started_at: dict[tuple[str, str, int], float] = {}

    @property
    def workers(self) -> Iterable[Worker]:
        """The last records of the workers that are shown, lost ones included."""
        return self._workers.values()

    @property
    def alive(self) -> list[Worker]:
        """The last records of the workers that are not lost."""
        return [each for each in self._workers.values() if each.id not in self._lost]

    @property
    def trouble(self) -> str:
        """Why the last look has failed, and what to do; empty if it has not."""
        return " ".join(dict.fromkeys(each for each in self.troubles.values() if each))

    @property
    def looked_at(self) -> float:
        """When broker and backend answered last, in seconds since the epoch; 0 if never."""
        return min(self._queues_at, self._workers_at)

    def note_queues(self, depths: Sequence[QueueDepth], rejected: int) -> None:
        """Take what the broker has answered.

        Args:
            depths: what waits.
            rejected: how many messages were set aside.
        """
        self._depths, self._rejected = tuple(depths), rejected
        self._queues_at = self._clock()

    def note_goodbyes(self, workers: Iterable[Worker]) -> None:
        """Take the last records of workers that have ended, in the order in which they came.

        Those that come before the first look at workers are of a time before this monitor.
        """
        now = self._clock()
        for each in workers:
            self._gone.add(each.id)
            self._workers.pop(each.id, None)
            self._add(self._readable(each), now)

    def note_workers(self, workers: Sequence[Worker]) -> None:
        """Take the records of all workers that the backend has."""
        now = self._clock()
        is_first = not self._began_at
        ids = {each.id for each in workers}
        self._gone &= ids
        before, self._workers = self._workers, {}
        for record in workers:
            known = before.get(record.id)
            if record.id in self._gone:
                continue
            if known is not None and known.uptime == record.uptime:
                # Between two heartbeats there is nothing new to read and to add.
                worker = replace(record, counts=known.counts, ended=known.ended)
            else:
                worker = self._readable(record)
                self._add(worker, now)
            self._judge(worker, now, is_first)
            if worker.id not in self._lost or worker.age <= worker.lease + self._show_lost:
                self._workers[worker.id] = worker
        self._lost &= ids
        self._unreadable &= ids
        self._silent_since = {id_: at for id_, at in self._silent_since.items() if id_ in ids}
        self._note_running(now)
        self.totals.forget(self._workers.values(), now)
        self.ended.forget(now)
        self._workers_at = now
        if is_first:
            self._began_at = now

    def view(self, ended_after: int = 0) -> FleetView:
        """Return the state of the fleet.

        Args:
            ended_after: only list the ended tasks that were listed after the one of this number, of
                ``ended.last``.
        """
        now = self._clock()
        self.ended.forget(now)
        since = now - self._workers_at if self._workers_at else 0.0
        return FleetView(
            at=self.looked_at,
            broker=self._broker,
            backend=self._backend,
            trouble=self.trouble,
            queues=self._queue_views(),
            workers=tuple(self._worker_view(each, since) for each in self._workers.values()),
            running=tuple(
                self._running_view(each, task) for each in self.alive for task in each.running
            ),
            ended=self.ended.newest_first(ended_after),
            ended_unlisted=self.ended.unlisted,
            rejected=self._rejected,
        )

    def queue(self, name: str) -> QueueView:
        """Return one queue; one that nobody knows is empty."""
        found = next((each for each in self._queue_views() if each.name == name), None)
        return found or QueueView(name, 0, 0, 0, 0, None, None, ())

    def _add(self, worker: Worker, now: float) -> None:
        """Add what a worker has run, and list what has ended."""
        began = now - worker.age - worker.uptime
        is_new = bool(self._began_at) and began >= self._began_at - STARTING_SECONDS
        ended = self.totals.add(worker, now, is_new=is_new)
        self.ended.add(worker, ended, now)

    def _readable(self, worker: Worker) -> Worker:
        """Return a record whose counts have been read; without them if that is not possible."""
        try:
            counts = None if worker.counts is None else tuple(worker.counts)
            return replace(worker, counts=counts, ended=tuple(worker.ended))
        except UNREADABLE as error:
            if worker.id not in self._unreadable:
                logger.warning(
                    "The counts of worker %s cannot be read (%s: %s), and are left out.",
                    worker.name,
                    type(error).__name__,
                    error,
                )
            self._unreadable.add(worker.id)
            return replace(worker, counts=None, ended=())

    def _judge(self, worker: Worker, now: float, is_first: bool) -> None:
        """Find out whether a worker is lost; if it is, its tasks are counted as lost, once.

        One look proves nothing, as :meth:`dagster_taskiq.client.Client.confirm_lost` explains. At
        the first look, those that are silent were lost before this monitor began.
        """
        if not worker.is_lost:
            self._silent_since.pop(worker.id, None)
            self._lost.discard(worker.id)
            return
        since = self._silent_since.setdefault(worker.id, now)
        if worker.id in self._lost:
            return
        if is_first:
            self._lost.add(worker.id)
        elif now - since >= self._confirm_seconds:
            self._lost.add(worker.id)
            kinds = {
                (each.id, each.attempt): Kind(_queue_of(worker, each), each.name, each.job)
                for each in worker.running
            }
            self.totals.give_up(worker.id, kinds)
            lost = [self._lost_task(worker, each, now) for each in worker.running]
            self.ended.add_lost(worker, lost, now)

    def _lost_task(self, worker: Worker, task: Running, now: float) -> EndedTask:
        return EndedTask(
            id=task.id,
            name=task.name,
            queue=_queue_of(worker, task),
            outcome=Outcome.LOST,
            started_at=self._first_seen(worker, task, now),
            ended_at=now,
            job=task.job,
            run_id=task.run_id,
            step_key=task.step_key,
            attempt=task.attempt,
            error=worker.silence,
        )

    def _note_running(self, now: float) -> None:
        """Keep when the tasks that run were first seen: what is reckoned anew differs a little."""
        self._started_at = {
            (each.id, task.id, task.attempt): self._first_seen(each, task, now)
            for each in self.alive
            for task in each.running
        }

    def _first_seen(self, worker: Worker, task: Running, now: float) -> float:
        known = self._started_at.get((worker.id, task.id, task.attempt))
        return round(now - worker.age - task.seconds, 3) if known is None else known

    def _queue_views(self) -> tuple[QueueView, ...]:
        depths: dict[str, list[QueueDepth]] = {}
        for depth in self._depths:
            depths.setdefault(queue_of_run_queue(depth.queue), []).append(depth)
        running: Counter[str] = Counter()
        orchestrating: Counter[str] = Counter()
        serving: dict[str, list[Worker]] = {}
        for worker in self.alive:
            for queue in worker.queues:
                workers = serving.setdefault(queue, [])
                if not worker.draining:
                    workers.append(worker)
            for task in worker.running:
                (orchestrating if task.orchestrating else running)[_queue_of(worker, task)] += 1
        names_of_all = sorted({*depths, *serving, *running, *orchestrating})
        return tuple(
            _queue_view(
                name,
                depths.get(name, []),
                running[name],
                orchestrating[name],
                serving.get(name, []),
            )
            for name in names_of_all
        )

    def _worker_view(self, worker: Worker, since: float) -> WorkerView:
        """Return what is shown of a worker, ``since`` seconds after its record was read."""
        # One that is silent is not known to be lost.
        state = "lost" if worker.id in self._lost else replace(worker, age=0.0).condition
        return WorkerView(
            id=worker.id,
            name=worker.name,
            host=worker.host,
            pid=worker.pid,
            version=worker.version,
            state=state,
            queues=worker.queues,
            slots=worker.concurrency,
            busy_slots=worker.busy_slots,
            runs=worker.held_runs,
            max_runs=worker.max_runs,
            memory=worker.memory,
            uptime=round(worker.uptime + worker.age + since, 1),
            age=round(worker.age + since, 1),
            ended=ended_in_all(worker.counts or ()),
        )

    def _running_view(self, worker: Worker, task: Running) -> RunningView:
        return RunningView(
            id=task.id,
            worker=worker.name,
            queue=_queue_of(worker, task),
            name=task.name,
            job=task.job,
            run_id=task.run_id,
            step_key=task.step_key,
            pid=task.pid,
            started_at=self._started_at[(worker.id, task.id, task.attempt)],
            orchestrating=task.orchestrating,
            attempt=task.attempt,
        )


def _queue_of(worker: Worker, task: Running) -> str:
    """Return the queue that a task came from; a worker of an earlier release does not tell."""
    return queue_of_run_queue(task.queue or next(iter(worker.queues), ""))


def _queue_view(
    name: str,
    depths: Sequence[QueueDepth],
    running: int,
    orchestrating: int,
    workers: Sequence[Worker],
) -> QueueView:
    ages = [each.oldest_age for each in depths if each.oldest_age is not None]
    priorities: Counter[int] | None = None
    for each in depths:
        if each.priorities is not None:
            priorities = (priorities or Counter()) + Counter(each.priorities)
    return QueueView(
        name=name,
        waiting=sum(each.waiting for each in depths),
        starting=sum(each.claimed or 0 for each in depths),
        running=running,
        orchestrating=orchestrating,
        oldest_age=max(ages, default=None),
        priorities=None if priorities is None else dict(priorities),
        workers=tuple(each.name for each in workers),
        slots=sum(each.concurrency for each in workers),
    )
