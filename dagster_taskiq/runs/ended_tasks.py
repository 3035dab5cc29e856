"""What becomes of a step whose task has ended."""

import time
from collections.abc import Mapping

from dagster._core.instance import DagsterInstance

from dagster_taskiq.errors import (
    DagsterTaskiqError,
    StepEndMissingError,
    TaskFailedError,
    TaskRevokedError,
    WorkerLostError,
)
from dagster_taskiq.execution.late_rows import LATE_SECONDS
from dagster_taskiq.runs.outcomes import Outcomes, make_error
from dagster_taskiq.runs.progress import Progress
from dagster_taskiq.runs.resumption import Resumption
from dagster_taskiq.runs.run_log import RunLog
from dagster_taskiq.runs.servers import Servers
from dagster_taskiq.runs.steps_in_flight import StepInFlight, StepsInFlight
from dagster_taskiq.runs.stopping import has_died, is_cancelled_or_ended
from dagster_taskiq.wire.records import Task, TaskState
from dagster_taskiq.wire.watching_tasks import watches_a_step

#: The error of a step without an end, by the state in which its task has ended.
_ERRORS: Mapping[TaskState, type[DagsterTaskiqError]] = {
    TaskState.SUCCESS: StepEndMissingError,
    TaskState.FAILURE: TaskFailedError,
    TaskState.REVOKED: TaskRevokedError,
    TaskState.LOST: WorkerLostError,
}


class EndedTasks:
    """Sees to it that each step whose task has ended has its end in the event log."""

    def __init__(
        self,
        servers: Servers,
        steps: StepsInFlight,
        log: RunLog,
        progress: Progress,
        outcomes: Outcomes,
        resumption: Resumption,
        instance: DagsterInstance,
        run_id: str,
    ) -> None:
        """Look at nothing yet.

        Args:
            servers: broker and backend.
            steps: the steps in flight.
            log: the run's event log.
            progress: applies what is read from it.
            outcomes: writes the end of a step that has none.
            resumption: runs a step again that had died before the run was resumed.
            instance: where the run is.
            run_id: the run.
        """
        self._servers = servers
        self._steps = steps
        self._log = log
        self._progress = progress
        self._outcomes = outcomes
        self._resumption = resumption
        self._instance = instance
        self._run_id = run_id

    def settle(self) -> None:
        """Deal with the tasks that were reported to have ended since the last call.

        Raises:
            ServerUnavailableError: as :meth:`Servers.call`.
        """
        ended = self._steps.take_ended()
        if not ended:
            return
        task_ids = [step.task_id for step in ended]
        tasks = self._servers.call(lambda client: client.tasks(task_ids))
        if tasks is None:
            self._look_again_at(*ended)
            return
        self._report_cut_off(ended, tasks)
        # The last event of a step is written before its task ends. It may become visible only now,
        # or may have been passed over.
        self._progress.update([step.key for step in ended])
        for step in ended:
            task = tasks.get(step.task_id)
            if task is not None and task.state.is_final:
                self._settle(step, task)

    def _look_again_at(self, *steps: StepInFlight) -> None:
        for step in steps:
            self._steps.report_task_end(step.task_id)

    def _report_cut_off(self, steps: list[StepInFlight], tasks: Mapping[str, Task]) -> None:
        """Write which steps were cut off, if rows of the log may become visible late.

        This event has a higher id than all that the steps have written: if the database is still at
        work on that, its rows are missing below.
        """
        cut_off = [
            step.key
            for step in steps
            if step.end_missing_since is None and _is_cut_off(tasks.get(step.task_id))
        ]
        if cut_off and self._log.may_miss_rows:
            self._log.report(f"The processes of some steps have ended: {', '.join(cut_off)}.")

    def _settle(self, step: StepInFlight, task: Task) -> None:
        self._steps.end_task(step)
        if not self._steps.has(step) or step.outcome_recorded:
            return
        if self._end_may_come(step, task):
            self._look_again_at(step)
        elif step.rerun_reason and self._has_died(task):
            self._steps.remove(step)
            self._resumption.run_again(step, step.rerun_reason)
        elif watches_a_step(task) and self._has_died(task):
            self._steps.remove(step)
            self._resumption.watch_again(step, _sentence(task.error))
        else:
            kind = WorkerLostError if self._has_died(task) else _ERRORS[task.state]
            self._outcomes.record(step, make_error(_describe_end(step, task), kind))

    def _end_may_come(self, step: StepInFlight, task: Task) -> bool:
        """Return whether the end of a step, whose task has ended, may still come into the log.

        A task that has returned has written it. A task that was cut off may have been writing it,
        and the database completes the statement without it.
        """
        now = time.monotonic()
        if step.end_missing_since is None:
            step.end_missing_since, step.awaited_rows = now, self._log.missing_rows
        step.awaited_rows &= self._log.missing_rows
        has_returned = task.state is TaskState.SUCCESS
        expected = bool(step.awaited_rows) if _is_cut_off(task) else has_returned
        return expected and now - step.end_missing_since < LATE_SECONDS

    def _has_died(self, task: Task) -> bool:
        """Return whether a task ended because its worker or process did, and its run goes on."""
        if task.state is TaskState.LOST:
            return True
        return has_died(task) and not is_cancelled_or_ended(self._instance, self._run_id)


def _is_cut_off(task: Task | None) -> bool:
    """Return whether a task's process was ended from outside, in the middle of what it did."""
    return task is not None and (task.was_stopped or task.state is TaskState.LOST)


def _describe_end(step: StepInFlight, task: Task) -> str:
    why = task.error or "Its task ended, and there is no end of the step in the event log."
    why = _sentence(why)
    return f'The task of step "{step.key}" ended before the step did ({task.state.value}). {why}'


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
