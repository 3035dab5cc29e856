"""The tasks that execute a whole run, or what is left of one."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, JobDefinition
from dagster._cli.api import _execute_run_command_body, _resume_run_command_body
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.storage.dagster_run import DagsterRun
from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs
from dagster._serdes import unpack_value
from dagster._utils.interrupts import capture_interrupts, check_captured_interrupt

from dagster_taskiq.client import client_for
from dagster_taskiq.dagster_internals.event_log_setup import mark_initialized
from dagster_taskiq.errors import (
    CodeLoadError,
    DagsterTaskiqError,
    PreviousProcessError,
    RunUnfinishedError,
    ServerUnavailableError,
    StartsOverError,
    TaskRevokedError,
)
from dagster_taskiq.execution.code_loading import load_job
from dagster_taskiq.execution.dagster_outcomes import note_run_end
from dagster_taskiq.execution.instances import find_run, instance_of
from dagster_taskiq.execution.perform import describe_failure
from dagster_taskiq.execution.run_ends import PROCESS_ENDED, end_run, stop_steps
from dagster_taskiq.execution.stop_note import StopNote
from dagster_taskiq.execution.task_beginnings import beginning
from dagster_taskiq.execution.task_context import current_context
from dagster_taskiq.settings.worker_fleet import process_settings
from dagster_taskiq.wire.records import TaskState
from dagster_taskiq.wire.stop_causes import StopCause

#: The status of a run that has not been started, which ``execute_job`` may start.
STARTABLE = (
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.MANAGED,
    DagsterRunStatus.STARTING,
)
#: The status of a run that ``resume_job`` may go on with.
RESUMABLE = (DagsterRunStatus.STARTING, DagsterRunStatus.STARTED)
#: The names of Dagster's executors that begin a resumed run from its start: they would execute
#: again what has been done.
STARTS_OVER = ("in_process", "multiprocess", "multi_or_in_process_executor")
#: The names of executors whose runs are resumed at any moment: those of this package, and of the
#: libraries on it.
RESUMES = ("taskiq", "celery", "celery-docker", "celery-k8s")
#: How long, beyond the lease, the process that had a resumed run before may take to end, in
#: seconds.
FENCE_SECONDS = 60.0
#: How often that is looked at, in seconds.
FENCE_LOOK_SECONDS = 0.2


def execute_job(
    execute_job_args_packed: dict[str, Any], include: Sequence[str] = (), **_newer: Any
) -> None:
    """Execute a run; what happens to it is written to Dagster's event log.

    Args:
        execute_job_args_packed: a packed ``dagster._grpc.types.ExecuteRunArgs``.
        include: modules to import before the job is loaded.
        _newer: as for ``execute_plan``.

    Raises:
        NoInstanceError: the arguments name no Dagster instance.
        RunNotFoundError: the run is not in this worker's instance.
        TaskRevokedError: the run has started or ended before, or is being cancelled; nothing was
            executed.
        CodeLoadError: the job cannot be loaded, or belongs into another Python environment.
        RunUnfinishedError: the run was not executed to its end for another reason, such as code
            that this worker may not load. The run has an end all the same.
    """
    args = unpack_value(execute_job_args_packed, as_type=ExecuteRunArgs)
    instance = instance_of(args)
    run = _run_to_execute(instance, args.run_id, STARTABLE)
    with capture_interrupts(), _ending_reported(instance, run) as on_event:
        job = load_job(instance, run, args.job_origin, include)
        _run_to_execute(instance, args.run_id, STARTABLE)
        _report_begun(job)
        _execute_run_command_body(
            args.run_id, instance, write_stream_fn=on_event, set_exit_code_on_failure=True
        )


def resume_job(
    resume_job_args_packed: dict[str, Any],
    include: Sequence[str] = (),
    previous_task_id: str = "",
    **_newer: Any,
) -> None:
    """Go on with a run whose process has died, from the state that it had.

    Args:
        resume_job_args_packed: a packed ``dagster._grpc.types.ResumeRunArgs``.
        include: modules to import before the job is loaded.
        previous_task_id: the task that had the run before; this one waits until that has ended.
        _newer: as for ``execute_plan``.

    Raises:
        as :func:`execute_job`.
    """
    args = unpack_value(resume_job_args_packed, as_type=ResumeRunArgs)
    instance = instance_of(args)
    run = _run_to_execute(instance, args.run_id, RESUMABLE)
    with capture_interrupts(), _ending_reported(instance, run) as on_event:
        if previous_task_id:
            _wait_until_fenced(previous_task_id)
        job = load_job(instance, run, args.job_origin, include)
        _run_to_execute(instance, args.run_id, RESUMABLE)
        _refuse_to_start_over(instance, args.run_id, job)
        _report_begun(job)
        _resume_run_command_body(
            args.run_id, instance, write_stream_fn=on_event, set_exit_code_on_failure=True
        )


def _run_to_execute(
    instance: DagsterInstance, run_id: str, wanted: Sequence[DagsterRunStatus]
) -> DagsterRun:
    """Return a run that no other process has started, or resumed, before.

    Raises:
        TaskRevokedError: its status is another one than those ``wanted``.
        RunNotFoundError: it is not in this worker's instance.
    """
    run = find_run(instance, run_id)
    if run.status in wanted:
        return run
    if run.status is DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, message="The run was stopped before it started.")
        if wanted is RESUMABLE:  # there may be steps of it
            with suppress(ServerUnavailableError):
                client = client_for(process_settings())
                stop_steps(instance, client, run_id, "the run was terminated")
    else:
        instance.report_engine_event(
            f"Dropped the run's task on worker {current_context().worker}: the run is "
            f"{run.status.value} already.",
            run,
        )
    raise TaskRevokedError(f"Run {run_id} is {run.status.value}.")


@contextmanager
def _ending_reported(
    instance: DagsterInstance, run: DagsterRun
) -> Iterator[Callable[[DagsterEvent], None]]:
    """End a run that is executed in the block, if that does not, with the reason in its log.

    Returns:
        A function to be called with each event of the run when it has been written.

    Raises:
        CodeLoadError: that is the reason.
        RunUnfinishedError: for any other reason.
    """
    worker = current_context().worker
    host = socket.gethostname()
    mark_initialized(instance, run.run_id)
    instance.report_engine_event(
        f"Worker {worker} on {host} has taken the run, in process {os.getpid()}.",
        run,
        EngineEventData(beginning(worker)),
    )
    why = f"Worker {worker} on {host} did not execute the run to its end."
    failure: type[DagsterTaskiqError] = RunUnfinishedError
    stop_note = StopNote(instance, run, "The process of the run")
    end_message = ""

    def note_event(event: DagsterEvent) -> None:
        nonlocal end_message
        stop_note.write_if_stopped()
        if event.event_type in (DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED):
            end_message = event.message or ""

    try:
        with stop_note:
            yield note_event
    except BaseException as error:
        failure = CodeLoadError if isinstance(error, CodeLoadError) else RunUnfinishedError
        why = f"Worker {worker} on {host} cannot execute the run: {describe_failure(error)}"
    now = instance.get_run_by_id(run.run_id)
    if now is None or now.is_finished:
        note_run_end(now.status if now is not None else run.status, end_message)
        return
    request = current_context().stop_request()
    may_resume = request is None or request.cause is StopCause.WORKER
    if end_run(instance, run.run_id, why, may_resume=may_resume):
        with suppress(ServerUnavailableError):
            stop_steps(instance, client_for(process_settings()), run.run_id, PROCESS_ENDED)
    raise failure(why)


def _wait_until_fenced(task_id: str) -> None:
    """Wait until the process that had a run before cannot write any more.

    Raises:
        PreviousProcessError: it does not end.
    """
    client = client_for(process_settings())
    deadline = time.monotonic() + client.settings.lease + FENCE_SECONDS
    while not check_captured_interrupt():
        task = client.tasks([task_id]).get(task_id)
        if task is None or task.state is not TaskState.STARTED:
            return
        worker = client.worker(task.worker)
        # The children of a worker that is lost have ended with its lease.
        if worker is None or client.confirm_lost(worker) is not None:
            client.mark_lost(task, "its run was resumed")
            return
        if time.monotonic() > deadline:
            raise PreviousProcessError(
                f"Task {task_id}, which had the run before, does not end on worker {worker.name} "
                f"(host {worker.host}, pid {worker.pid}), though it was told to."
            )
        time.sleep(FENCE_LOOK_SECONDS)


def _report_begun(job: JobDefinition) -> None:
    """Report that a run begins, unless another process could go on with it at any moment."""
    if job.executor_def.name not in RESUMES:
        current_context().begun()


def _refuse_to_start_over(instance: DagsterInstance, run_id: str, job: JobDefinition) -> None:
    """Refuse to resume a run whose executor would execute again what has been done.

    Raises:
        StartsOverError: that is so.
    """
    executor = job.executor_def.name
    if executor not in STARTS_OVER:
        return
    begun = instance.all_logs(run_id, of_type=DagsterEventType.STEP_START)
    if begun:
        raise StartsOverError(
            f'The run cannot be resumed: its executor "{executor}" begins from the start, and '
            f"{len(begun)} step(s) had begun. Re-execute the run from its failure, or give the "
            "job an executor that resumes, such as taskiq_executor."
        )
