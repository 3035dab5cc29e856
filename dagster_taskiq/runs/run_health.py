"""Whether a launched run is being executed, or will be, as Dagster's run monitoring asks."""

import logging

from dagster import DagsterInstance, DagsterRun
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus

from dagster_taskiq import tags
from dagster_taskiq.client import client_for
from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.execution.run_ends import follow_log, stop_steps
from dagster_taskiq.runs.checked_runs import CheckedRuns
from dagster_taskiq.runs.evicting_servers import describe_evictions
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.records import Task, TaskState

logger = logging.getLogger("dagster_taskiq.launcher")


class RunHealth:
    """Checks the runs of one Dagster instance by the records of their tasks and workers."""

    def __init__(self, instance: DagsterInstance, settings: Settings, checked: CheckedRuns) -> None:
        """Connect to nothing yet.

        Args:
            instance: where the runs are.
            settings: those of the instance, resolved.
            checked: what has been read for the checks before; kept from one to the next.
        """
        self._instance = instance
        self._settings = settings
        self._checked = checked

    def check(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return whether some process executes a run, or will."""
        task_id = run.tags.get(tags.TASK_ID_TAG)
        if not task_id:
            return _health_without_task(run)
        try:
            client = client_for(self._settings)
            task = self._checked.task(client, task_id)
            why = self._why_dead(task) if task else self._why_unknown(task_id)
        except ServerUnavailableError as error:
            logger.warning("Cannot tell how run %s is: %s", run.run_id, error)
            return CheckRunHealthResult(WorkerStatus.RUNNING, str(error), transient=True)
        if not why:
            state = task.state.value if task else "not known to the backend"
            text = f"Its task is {state}."
            return CheckRunHealthResult(WorkerStatus.RUNNING, text, run_worker_id=task_id)
        # The run's last event is written before its task ends.
        now = self._instance.get_run_by_id(run.run_id)
        if now is not None and now.tags.get(tags.TASK_ID_TAG) != task_id:
            # Run monitoring reads all runs before it checks the first; this one was handed over to
            # another worker, or resumed, since then.
            return self.check(now)
        if now is None or now.is_finished or follow_log(self._instance, run.run_id):
            return CheckRunHealthResult(WorkerStatus.SUCCESS, run_worker_id=task_id)
        instance = self._instance
        if instance.run_monitoring_enabled and not instance.run_will_resume(run.run_id):
            # Dagster now fails the run, so its steps are of no use any more.
            stop_steps(instance, client, run.run_id, "the process of its run has ended")
        return CheckRunHealthResult(WorkerStatus.FAILED, why, run_worker_id=task_id)

    def why_lost(self, task: Task, *, confirm: bool = True) -> str:
        """Return why a started task is lost with its worker, having recorded that.

        Args:
            task: the task.
            confirm: wait for a heartbeat of a worker that seems lost.

        Returns:
            A sentence; empty if the task is not lost.

        Raises:
            ServerUnavailableError: the backend does not answer.
        """
        if task.state is not TaskState.STARTED:
            return ""
        if self._checked.is_alive(task.worker):
            return ""
        client = client_for(self._settings)
        worker = self._checked.worker(client, task.worker)
        if worker is None:
            # The worker is about to send its first heartbeat, or its record was lost.
            if not self._is_absent_for_a_lease(task.worker):
                return ""
            why = f"The backend has no record of worker {task.worker}, which ran it, any more."
        else:
            self._checked.note_present(task.worker)
            lost = client.confirm_lost(worker) if confirm else worker
            if lost is None or not lost.is_lost:
                return ""
            why = lost.silence
        return why if client.mark_lost(task, why) else ""

    def _why_dead(self, task: Task) -> str:
        """Return why no process works on a task any more; empty if one does, or will."""
        self._checked.note_present(task.id)
        if task.state.is_final:
            why = task.error.rstrip(".") or "no reason is known"
            return f"Its task is {task.state.value}, and the run has not ended: {why}."
        return self.why_lost(task)

    def _why_unknown(self, task_id: str) -> str:
        """Return why a task of which the backend has no record is given up; empty if it is not."""
        # If the backend has lost its data, a worker restores the record with its next heartbeat.
        if not self._is_absent_for_a_lease(task_id):
            return ""
        return (
            f"The backend has known nothing of its task {task_id} for longer than the lease of "
            f"{self._settings.lease:g} s: its data was lost, or has expired."
            f"{describe_evictions(client_for(self._settings), {})}"
        )

    def _is_absent_for_a_lease(self, task_or_worker: str) -> bool:
        return self._checked.absent_seconds(task_or_worker) > self._settings.lease


def _health_without_task(run: DagsterRun) -> CheckRunHealthResult:
    """Return how a run is that has no task here, as far as its tags show."""
    celery_task = tags.celery_task_of(run.tags)
    if celery_task is not None:
        # The launcher of dagster-celery returns the same for a task of which its backend has no
        # record. Dagster's run monitoring then ends the run, or resumes it, so that it does not
        # keep its place in the run queue for ever.
        text = (
            f"The run was sent by dagster-celery, as Celery's task {celery_task}, of which nothing "
            "is known here."
        )
        return CheckRunHealthResult(WorkerStatus.UNKNOWN, text)
    # `dagster job execute` has it, or another launcher had. It is not ours to end.
    text = f'The run has no tag "{tags.TASK_ID_TAG}": it was not launched by this launcher.'
    return CheckRunHealthResult(WorkerStatus.RUNNING, text)
