"""Sending whole runs to the broker, for a worker to execute."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.events import EngineEventData
from dagster._core.origin import JobPythonOrigin
from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs
from dagster._serdes import pack_value

from dagster_taskiq import tags
from dagster_taskiq.client import client_for
from dagster_taskiq.dagster_internals.temporary_instance import note_on_temporary_home
from dagster_taskiq.deprecations import warn_of_run_tags
from dagster_taskiq.execution.code_location import lines_of, source_of, working_directory_of
from dagster_taskiq.runs.evicting_servers import warn_of_evictions
from dagster_taskiq.runs.unserved_queues import describe_workers
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import redact
from dagster_taskiq.tracing import spans
from dagster_taskiq.wire.labels import CODE_LABEL
from dagster_taskiq.wire.queues import run_queue
from dagster_taskiq.wire.run_task_ids import attempt_of, resumption_id
from dagster_taskiq.wire.task_names import EXECUTE_JOB, PACKED_RUN, RESUME_JOB
from dagster_taskiq.wire.task_request import TaskRequest


class RunSender:
    """Sends the runs of one Dagster instance, each as a task."""

    def __init__(
        self,
        instance: DagsterInstance,
        settings: Settings,
        task_id_tags: Sequence[str],
        launcher: type,
    ) -> None:
        """Connect to nothing yet.

        Args:
            instance: where the runs are.
            settings: those of the instance, resolved.
            task_id_tags: the tags of a run that hold the id of its task.
            launcher: the class that Dagster's events name as their origin.
        """
        self._instance = instance
        self._settings = settings
        self._task_id_tags = task_id_tags
        self._launcher = launcher

    def launch(self, run: DagsterRun) -> None:
        """Send a run to its queue.

        Raises:
            ServerUnavailableError: broker or backend does not answer.
            ConfigError: the settings or the run's priority tag cannot work.
            DagsterLaunchFailedError: the run has no origin of its code.
        """
        arguments = {PACKED_RUN[EXECUTE_JOB]: self._packed(run, ExecuteRunArgs)}
        # The id is the run's: a message that is sent or delivered twice starts once.
        self._send(run, EXECUTE_JOB, run.run_id, arguments, "Sent the run")

    def resume(self, run: DagsterRun, attempt: int) -> None:
        """Stop the task that has the run, and send the run once more.

        Args:
            run: the run.
            attempt: how often it has been resumed, with this time, as Dagster counts.

        Raises:
            as :meth:`launch`.
        """
        packed = self._packed(run, ResumeRunArgs)
        previous = tags.read_tag(run.tags, tags.TASK_ID_TAG) or ""
        attempt = max(attempt, attempt_of(previous) + 1)
        arguments = {PACKED_RUN[RESUME_JOB]: packed, "previous_task_id": previous}
        if previous:
            reason = "the run is being resumed"
            client_for(self._settings).revoke([previous], reason, at_once=True)
        task_id = resumption_id(run.run_id, attempt)
        self._send(run, RESUME_JOB, task_id, arguments, "Sent the run, to resume")

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
        self, run: DagsterRun, name: str, task_id: str, arguments: Mapping[str, Any], what: str
    ) -> None:
        """Send a run as a task of this name; ``what`` begins the sentence in its event log."""
        origin = _code_origin(run)
        warn_of_run_tags(run.tags, partial(lines_of, origin), source_of(origin))
        queue = tags.read_tag(run.tags, tags.QUEUE_TAG) or self._settings.queue
        request = TaskRequest(
            id=task_id,
            name=name,
            kwargs={**arguments, "include": list(self._settings.include)},
            queue=run_queue(queue),
            priority=tags.read_priority(run.tags, tags.RUN_PRIORITY_TAG),
            run_id=run.run_id,
            job=run.job_name,
            labels={CODE_LABEL: working_directory_of(origin)},
        )
        client = client_for(self._settings)
        # Before it is sent: if this process dies in between, the task can still be found.
        self._instance.add_run_tags(run.run_id, dict.fromkeys(self._task_id_tags, task_id))
        with spans.part_of_trace(run.tags):
            client.submit(request)
        metadata = {
            "queue": queue,
            "priority": str(request.priority),
            "task_id": task_id,
            "broker": redact(self._settings.broker),
        }
        text = f'{what} to queue "{queue}".{self._what_watches(run)}'
        self._report(run, text, EngineEventData(metadata))
        warn_of_evictions(client, self._instance, run)
        alive = [worker for worker in client.workers() if not worker.is_lost]
        if not any(queue in worker.queues for worker in alive):
            workers = describe_workers(queue, alive, redact(self._settings.broker))
            self._report(run, f'No worker serves queue "{queue}" now. {workers}')
        notes = (tags.describe_unread_priority(run.tags), note_on_temporary_home(self._instance))
        for note in filter(None, notes):
            self._report(run, note)

    def _what_watches(self, run: DagsterRun) -> str:
        """Return what Dagster's run monitoring does for a run that is sent, in a sentence."""
        instance = self._instance
        if run.status is DagsterRunStatus.STARTED:
            return ""
        if not instance.run_monitoring_enabled:
            return (
                " Dagster's run monitoring is off (run_monitoring in dagster.yaml): if the worker "
                "that takes the run is lost, nothing ends the run or has it go on."
            )
        seconds = instance.run_monitoring_start_timeout_seconds
        if seconds <= 0:
            return ""
        return (
            f" If no worker has started it within {seconds} s, Dagster's run monitoring will fail "
            "it (start_timeout_seconds under run_monitoring in dagster.yaml)."
        )

    def _report(self, run: DagsterRun, text: str, data: EngineEventData | None = None) -> None:
        self._instance.report_engine_event(text, run, data, cls=self._launcher)


def _code_origin(run: DagsterRun) -> JobPythonOrigin:
    if run.job_code_origin is None:
        raise DagsterLaunchFailedError(
            f"Run {run.run_id} does not say where its code is, so no worker could load it. Launch "
            "it from a code location (the UI, a schedule, `dagster job launch`)."
        )
    return run.job_code_origin
