"""Runs as tasks: sending, stopping and resuming them, and telling how they are.

Nothing that matters is kept in the launching process: the task's id is a tag of the run, and what
became of the task is in the backend. So the daemon may ask about, stop and resume a run that the
webserver launched.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.events import EngineEventData
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.origin import JobPythonOrigin
from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs
from dagster._serdes import pack_value

from dagster_taskiq import tags
from dagster_taskiq.client import Client, client_for
from dagster_taskiq.dagster_internals.temporary_instance import note_on_temporary_home
from dagster_taskiq.deprecations import warn_of_run_tags
from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.execution.code_location import lines_of, source_of, working_directory_of
from dagster_taskiq.execution.run_ends import end_run, follow_log, stop_steps
from dagster_taskiq.runs.evicting_servers import describe_evictions, warn_of_evictions
from dagster_taskiq.runs.instance_settings import settings_for
from dagster_taskiq.runs.unserved_queues import describe_workers
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import redact
from dagster_taskiq.wire.labels import CODE_LABEL
from dagster_taskiq.wire.queues import queue_of_run_queue, run_queue
from dagster_taskiq.wire.records import Task, TaskState, Worker
from dagster_taskiq.wire.task_names import EXECUTE_JOB, PACKED_RUN, RESUME_JOB
from dagster_taskiq.wire.task_request import TaskRequest

logger = logging.getLogger("dagster_taskiq.launcher")

#: How long a run that was CANCELING before it is terminated goes on, in seconds. Run monitoring
#: says so of a run that has exceeded its maximum runtime, has it terminated, and says only then
#: that it has failed; a run whose process reads CANCELING meanwhile would end as cancelled as well.
CALLER_SECONDS = 2.0


class LaunchedRuns:
    """The runs of one Dagster instance, as they are launched with one set of settings."""

    def __init__(
        self,
        instance: DagsterInstance,
        settings: Settings,
        absent_since: dict[str, float],
        task_id_tags: Sequence[str],
        launcher: type,
    ) -> None:
        """Open nothing yet.

        Args:
            instance: where the runs are.
            settings: as the launcher was configured.
            absent_since: since when the backend has no record of a task or a worker, in
                ``time.monotonic()``; kept by the launcher from one call to the next.
            task_id_tags: the tags of a run that hold the id of its task.
            launcher: the class that Dagster's events name as their origin.

        Raises:
            ConfigError: as :func:`settings_for`.
        """
        self._instance = instance
        self._settings = settings_for(instance, settings)
        self._launcher = launcher
        self._absent_since = absent_since
        self._task_id_tags = task_id_tags

    def launch(self, run: DagsterRun) -> None:
        """Send a run to its queue."""
        arguments = {PACKED_RUN[EXECUTE_JOB]: self._packed(run, ExecuteRunArgs)}
        # The id is the run's: a message that is sent or delivered twice starts once.
        self._send(run, EXECUTE_JOB, run.run_id, arguments, "Sent the run")

    def resume(self, run: DagsterRun, attempt: int) -> None:
        """Stop the task that has the run, and send the run once more."""
        packed = self._packed(run, ResumeRunArgs)
        previous = tags.read_tag(run.tags, tags.TASK_ID_TAG) or ""
        attempt = max(attempt, _attempt_of(previous) + 1)
        arguments = {PACKED_RUN[RESUME_JOB]: packed, "previous_task_id": previous}
        if previous:
            self._client.revoke([previous], "the run is being resumed", at_once=True)
        self._send(run, RESUME_JOB, f"{run.run_id}.{attempt}", arguments, "Sent the run, to resume")

    def _packed(self, run: DagsterRun, kind: type[ExecuteRunArgs | ResumeRunArgs]) -> Any:
        return pack_value(
            kind(
                job_origin=_code_origin(run),
                run_id=run.run_id,
                instance_ref=self._instance.get_ref(),
                set_exit_code_on_failure=True,
            )
        )

    def _send(
        self, run: DagsterRun, name: str, task_id: str, arguments: Mapping[str, Any], said: str
    ) -> None:
        origin = _code_origin(run)
        warn_of_run_tags(run.tags, partial(lines_of, origin), source_of(origin))
        queue = tags.read_tag(run.tags, tags.QUEUE_TAG) or self._settings.queue
        order = TaskRequest(
            id=task_id,
            name=name,
            kwargs={**arguments, "include": list(self._settings.include)},
            queue=run_queue(queue),
            priority=tags.read_priority(run.tags, tags.RUN_PRIORITY_TAG),
            run_id=run.run_id,
            labels={CODE_LABEL: working_directory_of(_code_origin(run))},
        )
        client = self._client
        # Before it is sent: whatever happens in between, whoever asks for the task can find it.
        self._instance.add_run_tags(run.run_id, dict.fromkeys(self._task_id_tags, task_id))
        client.submit(order)
        metadata = {
            "queue": queue,
            "priority": str(order.priority),
            "task_id": task_id,
            "broker": redact(self._settings.broker),
        }
        self._say(
            run, f'{said} to queue "{queue}".{self._start_timeout(run)}', EngineEventData(metadata)
        )
        warn_of_evictions(client, self._instance, run)
        alive = [worker for worker in client.workers() if not worker.is_lost]
        if not any(queue in worker.queues for worker in alive):
            there = describe_workers(queue, alive, redact(self._settings.broker))
            self._say(run, f'No worker serves queue "{queue}" now. {there}')
        if temporary := note_on_temporary_home(self._instance):
            self._say(run, temporary)

    def _start_timeout(self, run: DagsterRun) -> str:
        instance = self._instance
        seconds = instance.run_monitoring_start_timeout_seconds
        if run.status is DagsterRunStatus.STARTED or not instance.run_monitoring_enabled:
            return ""
        if seconds <= 0:
            return ""
        return (
            f" If no worker has started it within {seconds} s, Dagster's run monitoring will fail "
            "it (start_timeout_seconds under run_monitoring in dagster.yaml)."
        )

    def terminate(self, run_id: str, as_canceled: bool = True) -> bool:
        """Cancel or stop a run; ``False`` when there is nothing to stop.

        Args:
            run_id: which one.
            as_canceled: whether it ends as CANCELED; else as FAILURE, unless somebody else has said
                before that it is to be cancelled.
        """
        run = self._instance.get_run_by_id(run_id)
        task_id = tags.read_tag(run.tags, tags.TASK_ID_TAG) if run else None
        if run is None or run.is_finished or not task_id:
            return False
        try:
            client = self._client
            task = client.tasks([task_id]).get(task_id)
        except ServerUnavailableError as error:
            self._say(run, f"The run could not be told to stop: {error}")
            return False
        reason = "the run was terminated"
        canceling = run.status is DagsterRunStatus.CANCELING
        if canceling and task is not None and task.state is TaskState.STARTED:
            client.stop_later(task, reason, CALLER_SECONDS)
        else:
            if as_canceled and not canceling:
                # First: the run's process, when it is interrupted, reads that somebody wanted it.
                self._instance.report_run_canceling(run)
            client.revoke([task_id], reason)
            task = client.tasks([task_id]).get(task_id)
        started = task is not None and task.started_at > 0
        if not started:
            record = self._instance.get_run_record_by_id(run_id)
            begun = record is not None and record.start_time is not None
            if client.stop_where_it_runs(task_id, reason, begun=begun):
                return True
        # One look is enough: should its worker live after all, the task must stop there too.
        if task and not task.state.is_final and not self._why_lost(task, look_twice=False):
            return True
        # It never started, or nobody is left who would write the end of it.
        why = "Its process had ended before." if started else "It had not been started."
        end_run(self._instance, run_id, why)
        stop_steps(self._instance, client, run_id, reason)
        return True

    def health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return whether somebody works on a run, or will."""
        task_id = run.tags.get(tags.TASK_ID_TAG)
        if not task_id:
            return _health_without_task(run)
        try:
            task = self._client.tasks([task_id]).get(task_id)
            why = self._why_dead(task) if task else self._why_unknown(task_id)
        except ServerUnavailableError as error:
            logger.warning("Cannot tell how run %s is: %s", run.run_id, error)
            return CheckRunHealthResult(WorkerStatus.RUNNING, str(error), transient=True)
        if not why:
            state = task.state.value if task else "not known to the backend"
            said = f"Its task is {state}."
            return CheckRunHealthResult(WorkerStatus.RUNNING, said, run_worker_id=task_id)
        # The run's last event is written before its task ends.
        now = self._instance.get_run_by_id(run.run_id)
        if now is None or now.is_finished or follow_log(self._instance, run.run_id):
            return CheckRunHealthResult(WorkerStatus.SUCCESS, run_worker_id=task_id)
        instance = self._instance
        if instance.run_monitoring_enabled and not instance.run_will_resume(run.run_id):
            # Dagster will now fail the run, and nobody waits for its steps any more.
            stop_steps(instance, self._client, run.run_id, "the process of its run has ended")
        return CheckRunHealthResult(WorkerStatus.FAILED, why, run_worker_id=task_id)

    def describe(self, run: DagsterRun) -> str | None:
        """Return what is known of a run's task, in sentences."""
        task_id = tags.read_tag(run.tags, tags.TASK_ID_TAG)
        if not task_id:
            return None
        try:
            task = self._client.tasks([task_id]).get(task_id)
            workers = self._client.workers()
        except ServerUnavailableError as error:
            return f"Task {task_id}: {error}"
        if task is None:
            return f"Task {task_id}: the backend knows nothing of it."
        return _describe(task, workers)

    def _why_unknown(self, task_id: str) -> str:
        """Return why a task that the backend does not know is given up, or nothing."""
        if not self._absent_for_a_lease(task_id):
            return ""  # where the backend has lost its data, a worker puts its own back as it beats
        return (
            f"The backend has known nothing of its task {task_id} for longer than the lease of "
            f"{self._settings.lease:g} s: its data was lost, or has expired."
            f"{describe_evictions(self._client, {})}"
        )

    def _why_dead(self, task: Task) -> str:
        """Return why nobody works on a task any more, or nothing."""
        self._absent_since.pop(task.id, None)
        if task.state.is_final:
            why = task.error.rstrip(".") or "no reason is known"
            return f"Its task is {task.state.value}, and the run has not ended: {why}."
        return self._why_lost(task)

    def _why_lost(self, task: Task, look_twice: bool = True) -> str:
        """Return why a started task's worker is lost, having put that on record; or nothing."""
        if task.state is not TaskState.STARTED:
            return ""
        worker = self._client.worker(task.worker)
        if worker is None:
            # It is about to beat for the first time, or its record was lost.
            if not self._absent_for_a_lease(task.worker):
                return ""
            why = f"The worker that ran it, {task.worker}, is not there any more."
        else:
            self._absent_since.pop(task.worker, None)
            silent = self._client.confirm_lost(worker) if look_twice else worker
            if silent is None or not silent.is_lost:
                return ""
            why = silent.silence
        return why if self._client.mark_lost(task, why) else ""

    def _absent_for_a_lease(self, who: str) -> bool:
        since = self._absent_since.setdefault(who, time.monotonic())
        return time.monotonic() - since > self._settings.lease

    def _say(self, run: DagsterRun, text: str, data: EngineEventData | None = None) -> None:
        self._instance.report_engine_event(text, run, data, cls=self._launcher)

    @property
    def _client(self) -> Client:
        return client_for(self._settings)


def _code_origin(run: DagsterRun) -> JobPythonOrigin:
    if run.job_code_origin is None:
        raise DagsterLaunchFailedError(
            f"Run {run.run_id} does not say where its code is, so no worker could load it. Launch "
            "it from a code location (the UI, a schedule, `dagster job launch`)."
        )
    return run.job_code_origin


def _health_without_task(run: DagsterRun) -> CheckRunHealthResult:
    """Return how a run is that has no task here, as far as that can be told by its tags."""
    older = tags.OLDER_NAMES[tags.TASK_ID_TAG]
    if older in run.tags:
        # As dagster-celery's own launcher answers for a task of which its backend knows nothing.
        # Dagster's run monitoring then ends the run, or resumes it, and it does not keep its place
        # in the run queue for ever.
        said = (
            f"The run was launched by dagster-celery, as Celery's task {run.tags[older]}, of which "
            "nothing is known here."
        )
        return CheckRunHealthResult(WorkerStatus.UNKNOWN, said)
    # `dagster job execute` has it, or another launcher had. It is not ours to end.
    said = f'The run has no tag "{tags.TASK_ID_TAG}": it was not launched by this launcher.'
    return CheckRunHealthResult(WorkerStatus.RUNNING, said)


def _attempt_of(task_id: str) -> int:
    """Return which resumption of its run a task is; 0 for the first task."""
    number = task_id.rpartition(".")[2]
    return int(number) if "." in task_id and number.isdigit() else 0


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
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
