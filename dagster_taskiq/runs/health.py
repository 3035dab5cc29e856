"""Whether every step in flight has a worker that works on it, or will."""

import time
from collections.abc import Callable, Mapping, Sequence

from dagster_taskiq.runs.lost_messages import LostMessages
from dagster_taskiq.runs.lost_records import LostRecords
from dagster_taskiq.runs.lost_workers import LostWorkers
from dagster_taskiq.runs.servers import Servers
from dagster_taskiq.runs.steps_in_flight import StepInFlight, StepsInFlight
from dagster_taskiq.runs.unserved_queues import UnservedQueues
from dagster_taskiq.wire.records import Task, TaskState, Worker

#: The longest time between two checks, in seconds.
CHECK_SECONDS = 5.0
#: After how many intervals without a check this process counts as interrupted.
_INTERRUPTED_AFTER = 3
#: Why a task is ended that waits although its step has ended.
_ENDED_ELSEWHERE = (
    "Its step has ended, as the event log has it, and this backend has no record that a worker "
    "started it. Give all workers and runs the same backend."
)


class Health:
    """Checks the tasks of the steps in flight every few seconds.

    Something may be lost in four places: a worker dies, the backend loses records, the broker loses
    messages, or a queue has no worker. Each has a class of its own; this one asks the servers, once
    for all of them.
    """

    def __init__(
        self,
        servers: Servers,
        steps: StepsInFlight,
        *,
        interval: float,
        lost_workers: LostWorkers,
        lost_records: LostRecords,
        lost_messages: LostMessages,
        unserved_queues: UnservedQueues,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Check nothing yet.

        Args:
            servers: broker and backend.
            steps: the steps in flight.
            interval: the time between two checks, in seconds; at most ``CHECK_SECONDS``.
            lost_workers: decides when a worker is lost.
            lost_records: deals with steps whose tasks have no record.
            lost_messages: sends steps again whose messages are missing.
            unserved_queues: reports queues without a worker.
            clock: the time, in seconds from any start.
        """
        self._servers = servers
        self._steps = steps
        self._interval = min(interval, CHECK_SECONDS)
        self._lost_workers = lost_workers
        self._lost_records = lost_records
        self._lost_messages = lost_messages
        self._unserved_queues = unserved_queues
        self._clock = clock
        self._checked_at = clock()

    def check(self) -> None:
        """Check every step in flight or finalizing, if the last check was long enough ago.

        Raises:
            ServerUnavailableError: as :meth:`Servers.call`.
        """
        now = self._clock()
        since_check = now - self._checked_at
        if since_check < self._interval:
            return
        self._checked_at = now
        if since_check > _INTERRUPTED_AFTER * self._interval:
            self._servers.note_interruption()
        steps = [*self._steps, *self._steps.finalizing]
        if not steps:
            return
        task_ids = [step.task_id for step in steps]
        found = self._servers.call(lambda client: (client.tasks(task_ids), client.workers()))
        if found is None:
            return
        tasks, workers = found
        by_id = {worker.id: worker for worker in workers}
        for step in steps:
            if not self._steps.is_unsent(step):
                self._check_step(step, tasks.get(step.task_id), by_id)
        self._lost_messages.check(tasks, workers)
        self._report_unserved_queues(tasks, workers)

    def _check_step(
        self, step: StepInFlight, task: Task | None, workers: Mapping[str, Worker]
    ) -> None:
        if task is None:
            self._lost_records.check(step, workers.values())
            return
        step.unrecorded_since = None
        if task.state.is_final:
            self._steps.report_task_end(task.id)
        elif task.state is TaskState.WAITING:
            if not self._steps.has(step):
                self._end_waiting(task, workers)
        elif task.state is TaskState.STARTED:
            why = self._lost_workers.why_lost(task.worker, workers.get(task.worker))
            if why:
                # The task has ended in any case: now, or before, which then stays its state.
                self._servers.call(lambda client: client.mark_lost(task, why))
                self._steps.report_task_end(task.id)

    def _end_waiting(self, task: Task, workers: Mapping[str, Worker]) -> None:
        """End a task that waits, as the backend has it, and whose step has its end in the log.

        A worker with another backend has executed it, or the backend has lost the record of its
        start: nobody would ever record its end. Should its message come again, it is refused then.
        """
        if any(worker.runs(task.id) for worker in workers.values()):
            return
        self._servers.call(lambda client: client.revoke([task.id], _ENDED_ELSEWHERE))
        self._steps.report_task_end(task.id)

    def _report_unserved_queues(self, tasks: Mapping[str, Task], workers: Sequence[Worker]) -> None:
        waiting: dict[str, list[float]] = {}
        for step in self._steps:
            task = tasks.get(step.task_id)
            if task is not None and task.state is TaskState.WAITING:
                waiting.setdefault(step.queue, []).append(step.since)
        self._unserved_queues.report(waiting, workers)
