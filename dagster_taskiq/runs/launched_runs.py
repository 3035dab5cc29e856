"""Runs that were launched as tasks: how they are sent, checked, stopped and described.

Nothing that matters is kept in the process that launches a run: the id of its task is a tag of the
run, and what became of the task is recorded in the backend. So the daemon can check, stop and
resume a run that the webserver launched.
"""

from collections.abc import Sequence
from datetime import datetime

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from dagster_taskiq import tags
from dagster_taskiq.client import Client, client_for
from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.execution.run_ends import end_run, stop_steps
from dagster_taskiq.runs.checked_runs import CheckedRuns
from dagster_taskiq.runs.instance_settings import settings_for
from dagster_taskiq.runs.run_health import RunHealth
from dagster_taskiq.runs.run_sending import RunSender
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import redact
from dagster_taskiq.wire.queues import queue_of_run_queue
from dagster_taskiq.wire.records import Task, TaskState, Worker

#: How long a run that was CANCELING before it is terminated goes on, in seconds. Run monitoring
#: sets that status of a run that has exceeded its maximum runtime, has it terminated, and only then
#: writes that it has failed. A run whose process reads CANCELING meanwhile would end as cancelled.
CALLER_SECONDS = 2.0


class LaunchedRuns:
    """The runs of one Dagster instance, as they are launched with one set of settings."""

    def __init__(
        self,
        instance: DagsterInstance,
        settings: Settings,
        checked: CheckedRuns,
        task_id_tags: Sequence[str],
        launcher: type,
    ) -> None:
        """Connect to nothing yet.

        Args:
            instance: where the runs are.
            settings: as the launcher was configured.
            checked: what has been read to check runs; kept by the launcher from one call to the
                next.
            task_id_tags: the tags of a run that hold the id of its task.
            launcher: the class that Dagster's events name as their origin.

        Raises:
            ConfigError: as :func:`settings_for`.
        """
        self._instance = instance
        self._settings = settings_for(instance, settings)
        self._launcher = launcher
        self.sender = RunSender(instance, self._settings, task_id_tags, launcher)
        self.health = RunHealth(instance, self._settings, checked)

    def terminate(self, run_id: str, as_canceled: bool = True) -> bool:
        """Cancel or stop a run; ``False`` if there is nothing to stop.

        Args:
            run_id: the run.
            as_canceled: whether it ends as CANCELED; else as FAILURE, unless its cancellation was
                requested before.
        """
        run = self._instance.get_run_by_id(run_id)
        task_id = tags.read_tag(run.tags, tags.TASK_ID_TAG) if run else None
        if run is None or run.is_finished or not task_id:
            return False
        try:
            client = client_for(self._settings)
            task = client.tasks([task_id]).get(task_id)
        except ServerUnavailableError as error:
            text = f"The run could not be told to stop: {error}"
            self._instance.report_engine_event(text, run, cls=self._launcher)
            return False
        celery_task = tags.celery_task_of(run.tags)
        if task is None and celery_task is not None:
            return self._terminate_of_celery(run, celery_task, as_canceled)
        reason = "the run was terminated"
        is_recorded = task is not None
        canceling = run.status is DagsterRunStatus.CANCELING
        if canceling and task is not None and task.state is TaskState.STARTED:
            client.stop_later(task, reason, CALLER_SECONDS)
        else:
            if as_canceled and not canceling:
                # First: the process of the run, when it is interrupted, reads what was requested.
                self._instance.report_run_canceling(run)
            client.revoke([task_id], reason)
            task_id = self._revoke_successor(client, run_id, task_id, reason)
            task = client.tasks([task_id]).get(task_id)
        started = task is not None and task.started_at > 0
        if not started:
            record = self._instance.get_run_record_by_id(run_id)
            begun = record is not None and record.start_time is not None
            if client.stop_where_it_runs(task_id, reason, begun=begun):
                return True
            if begun and not is_recorded:
                self._report_unknown(run, task_id)
                return False
        # No confirmation is needed: if its worker lives after all, the task must stop there too.
        if task and not task.state.is_final and not self.health.why_lost(task, confirm=False):
            return True
        # It never started, or there is no process any more that would write its end.
        why = "Its process had ended before." if started else "It had not been started."
        end_run(self._instance, run_id, why)
        stop_steps(self._instance, client, run_id, reason)
        return True

    def _terminate_of_celery(self, run: DagsterRun, celery_task: str, as_canceled: bool) -> bool:
        """End a run that dagster-celery has sent, unless one of Celery's workers has begun it."""
        sent = f"sent by dagster-celery, as Celery's task {celery_task}"
        record = self._instance.get_run_record_by_id(run.run_id)
        if record is not None and record.start_time is not None:
            text = (
                f"The run could not be told to stop: it was {sent}, and whether a process of "
                "Celery's executes it is UNKNOWN here. Stop that process, or see that it is gone; "
                "then run monitoring ends the run, or force its termination."
            )
            self._instance.report_engine_event(text, run, cls=self._launcher)
            return False
        if as_canceled and run.status is not DagsterRunStatus.CANCELING:
            self._instance.report_run_canceling(run)
        # A message of it that is still in Celery's queue starts nothing: the run has ended.
        end_run(self._instance, run.run_id, f"It was {sent}, and had not been started.")
        return True

    def _revoke_successor(self, client: Client, run_id: str, task_id: str, reason: str) -> str:
        """Revoke the task to which the worker of a run has handed it over at this moment.

        A worker writes the new id into the tags before it looks whether the run was terminated.

        Returns:
            The id of the last task of the run.
        """
        run = self._instance.get_run_by_id(run_id)
        now = tags.read_tag(run.tags, tags.TASK_ID_TAG) if run else None
        if not now or now == task_id:
            return task_id
        client.revoke([now], reason)
        return now

    def _report_unknown(self, run: DagsterRun, task_id: str) -> None:
        """Say in the run's log why a run that has begun cannot be stopped from here."""
        backend = redact(self._settings.backend_url)
        text = (
            f"The run could not be told to stop: it has begun, but {backend} has no record of its "
            f"task {task_id}, and none of the workers there executes it. If the run was launched "
            "with another broker, terminate it from a process that is configured with that one. "
            "If the record was lost and its process has ended, run monitoring ends the run, or "
            "force its termination."
        )
        self._instance.report_engine_event(text, run, cls=self._launcher)

    def describe(self, run: DagsterRun) -> str | None:
        """Return what is known of a run's task, in sentences; ``None`` if it has no task."""
        task_id = tags.read_tag(run.tags, tags.TASK_ID_TAG)
        if not task_id:
            return None
        try:
            client = client_for(self._settings)
            task = client.tasks([task_id]).get(task_id)
            workers = client.workers()
        except ServerUnavailableError as error:
            return f"Task {task_id}: {error}"
        if task is None and tags.celery_task_of(run.tags) is not None:
            return (
                f"Task {task_id} was sent by dagster-celery, to Celery's workers: what became of "
                "it is UNKNOWN here. `dagster-celery drain` shows what waits in Celery's queues."
            )
        if task is None:
            return f"Task {task_id}: the backend knows nothing of it."
        return _describe(task, workers)


def _describe(task: Task, workers: Sequence[Worker]) -> str:
    worker = next((each for each in workers if each.id == task.worker), None)
    queue = queue_of_run_queue(task.queue)
    lines = [f'Task {task.id} ({task.name}) is {task.state.value}, in queue "{queue}".']
    lines.append(f"Sent {_at(task.submitted_at)}.")
    if task.started_at:
        lines.append(f"Started {_at(task.started_at)} by {worker.name if worker else task.worker}.")
    if task.finished_at:
        lines.append(f"Ended {_at(task.finished_at)}.")
    if task.error:
        lines.append(f"Reason: {task.error.rstrip('.')}.")
    if worker is not None:
        seen = "lost" if worker.is_lost else "alive"
        lines.append(
            f"Worker {worker.name} (host {worker.host}, pid {worker.pid}) is {seen}, last seen "
            f"{worker.age:.0f} s ago."
        )
        lines += [
            f"There it runs in process {each.pid}, since {each.seconds + worker.age:.0f} s."
            for each in worker.running
            if each.id == task.id and each.pid and not task.state.is_final
        ]
    return " ".join(lines)


def _at(seconds: float) -> str:
    """Return a time, in seconds since the epoch, as text in the local time zone."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
