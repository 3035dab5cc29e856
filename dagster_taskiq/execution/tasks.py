"""What a worker can be asked to do, and how a child process does it.

``execute_plan`` runs one step of a run, ``execute_job`` a whole run, ``resume_job`` what is left of
one. Their arguments are the ones Dagster itself uses to hand a step or a run to another process,
packed as JSON; nothing from the wire is ever unpickled.
"""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, JobDefinition
from dagster._cli.api import _execute_run_command_body, _resume_run_command_body
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.execution.api import execute_plan_iterator
from dagster._core.execution.context_creation_job import create_context_free_log_manager
from dagster._core.origin import JobPythonOrigin
from dagster._core.storage.dagster_run import DagsterRun
from dagster._grpc.types import ExecuteRunArgs, ExecuteStepArgs, ResumeRunArgs
from dagster._serdes import unpack_value
from dagster._utils.hosted_user_process import recon_job_from_origin
from dagster._utils.interrupts import capture_interrupts, check_captured_interrupt
from taskiq import AsyncBroker
from typing_extensions import Self

from dagster_taskiq.client import Client, client_for
from dagster_taskiq.dagster_internals.event_log_setup import mark_initialized
from dagster_taskiq.errors import (
    CodeLoadError,
    DagsterTaskiqError,
    NotAllowedError,
    ServerUnavailableError,
    TaskFailedError,
    TaskRevokedError,
)
from dagster_taskiq.execution.allowed_code import current_policy
from dagster_taskiq.execution.code_loading import check_allowed, import_included, make_importable
from dagster_taskiq.execution.instances import instance_of
from dagster_taskiq.execution.perform import describe_failure
from dagster_taskiq.execution.pool_slots import free_step, pool_of
from dagster_taskiq.execution.python_environments import check_environment
from dagster_taskiq.execution.run_ends import end_run, stop_steps
from dagster_taskiq.execution.step_plans import plan_of_step
from dagster_taskiq.execution.task_beginnings import beginning, begun_tasks
from dagster_taskiq.execution.task_context import current_context
from dagster_taskiq.settings.worker_fleet import process_settings
from dagster_taskiq.wire.records import TaskState
from dagster_taskiq.wire.task_names import (
    EXECUTE_JOB,
    EXECUTE_PLAN,
    FINALIZE_RUN,
    FREE_STEP,
    HAS_BEGUN,
    RESUME_JOB,
)

#: A run that has not been started: what ``execute_job`` may start.
STARTABLE = (
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.MANAGED,
    DagsterRunStatus.STARTING,
)
#: A run that ``resume_job`` may go on with.
RESUMABLE = (DagsterRunStatus.STARTING, DagsterRunStatus.STARTED)
#: Dagster's executors that take a run that is resumed from its beginning, by their names: what has
#: been done would be done again.
STARTS_OVER = ("in_process", "multiprocess", "multi_or_in_process_executor")
#: How long, beyond the lease, the process that had a resumed run before may take to be dead, in
#: seconds.
FENCE_SECONDS = 60.0
#: How often that is looked at, in seconds.
FENCE_LOOK_SECONDS = 0.2


#: Events after which nothing more is decided about a step: the run's loop is woken at each.
TERMINAL_EVENTS = frozenset(
    {
        DagsterEventType.STEP_SUCCESS,
        DagsterEventType.STEP_FAILURE,
        DagsterEventType.STEP_UP_FOR_RETRY,
        DagsterEventType.STEP_SKIPPED,
        DagsterEventType.RESOURCE_INIT_FAILURE,
    }
)
#: Events a loop is woken at as well, where steps may start before their upstream step has ended.
OUTPUT_EVENTS = frozenset({DagsterEventType.STEP_OUTPUT})


def register_tasks(broker: AsyncBroker) -> None:
    """Register every task of this module with ``broker``, under the names used on the wire.

    A project's own task of such a name stays.
    """
    for name, function in (
        (EXECUTE_PLAN, execute_plan),
        (EXECUTE_JOB, execute_job),
        (RESUME_JOB, resume_job),
        (FINALIZE_RUN, finalize_run),
        (HAS_BEGUN, has_begun),
        (FREE_STEP, free_step_of_ended_run),
    ):
        if broker.find_task(name) is None:
            broker.register_task(function, task_name=name)


def execute_plan(
    execute_step_args_packed: dict[str, Any],
    executable_dict: dict[str, Any],
    wake_on_output: bool = False,
    **_newer: Any,
) -> None:
    """Execute one step of a run; what happens to it is written to Dagster's event log.

    Args:
        execute_step_args_packed: a packed ``dagster._grpc.types.ExecuteStepArgs``.
        executable_dict: ``ReconstructableJob.to_dict()`` of the job, subset included.
        wake_on_output: wake the run's loop at each output too, not only when the step ends.
        _newer: what a newer release sends beside; as with the other tasks here, only what an older
            worker can do without.

    Raises:
        TaskRevokedError: the run has ended or is being cancelled; nothing was executed.
        NotAllowedError: its job is not one that this worker may load.
        CodeLoadError: its job cannot be loaded, or belongs into another Python environment.
        TaskFailedError: the step could not be set up otherwise. A step that was set up and then
            failed has its failure in the event log and raises nothing.
    """
    args = unpack_value(execute_step_args_packed, as_type=ExecuteStepArgs)
    step_key = ", ".join(args.step_keys_to_execute or ())
    instance = instance_of(args)
    run = _run_of(instance, args.run_id)
    mark_initialized(instance, run.run_id)
    if run.is_finished or run.status == DagsterRunStatus.CANCELING:
        instance.report_engine_event(
            f"Dropped step {step_key} before it started: the run is {run.status.value}.",
            run,
            step_key=step_key,
        )
        raise TaskRevokedError(f"The run is {run.status.value}.")
    check_allowed(args.job_origin)
    _inject_env_vars(instance, run)
    _say_started(instance, run, step_key)
    try:
        check_environment(args.job_origin)
    except CodeLoadError as error:
        raise CodeLoadError(
            f"Worker {current_context().worker} on {socket.gethostname()} "
            f"cannot run step {step_key}: "
            f"{error}"
        ) from None
    make_importable(args.job_origin)
    try:
        job = ReconstructableJob.from_dict(executable_dict)
        # This is what is executed, whatever the arguments say.
        check_allowed(job.get_python_origin())
        load_data = _load_data_of(instance, run)
        if load_data is not None:
            job = job.with_repository_load_data(load_data)
        with current_context().loading(repr(args.job_origin)):
            plan = plan_of_step(job, run, args, load_data)
    except NotAllowedError:
        raise
    except Exception as error:
        raise CodeLoadError(
            f"Worker {current_context().worker} on {socket.gethostname()} "
            "cannot load the job of step "
            f"{step_key}: {describe_failure(error)}\n{_where_code_is_looked_for()}"
        ) from None
    wanted = TERMINAL_EVENTS | OUTPUT_EVENTS if wake_on_output else TERMINAL_EVENTS
    wake = current_context().wake
    with StopNote(instance, run, f'Step "{step_key}"', step_key) as stop_note:
        for event in execute_plan_iterator(
            plan,
            job,
            run,
            instance,
            retry_mode=args.retry_mode,
            run_config=run.run_config,
        ):
            if event.event_type in wanted:
                wake()
                stop_note.write_if_stopped()
    if any(pool_of(step) for step in plan.get_steps_to_execute_in_topo_order()):
        # The loop of a run that has ended meanwhile does not see the end of this step.
        free_step_of_ended_run(execute_step_args_packed)


def execute_job(
    execute_job_args_packed: dict[str, Any], include: Sequence[str] = (), **_newer: Any
) -> None:
    """Execute a run; what happens to it is written to Dagster's event log.

    Args:
        execute_job_args_packed: a packed ``dagster._grpc.types.ExecuteRunArgs``.
        include: modules to import before the job is loaded.

    Raises:
        TaskRevokedError: the run has started or ended before, or is being cancelled; nothing was
            executed.
        CodeLoadError: its job cannot be loaded, or belongs into another Python environment.
        TaskFailedError: the run was not executed to its end, whatever became of it; that it needs
            code which this worker may not load among them.
    """
    args = unpack_value(execute_job_args_packed, as_type=ExecuteRunArgs)
    instance = instance_of(args)
    run = _run_to_execute(instance, args.run_id, STARTABLE)
    with capture_interrupts(), _told_in_the_log(instance, run) as on_event:
        _load(instance, run, args.job_origin, include)
        _run_to_execute(instance, args.run_id, STARTABLE)
        _execute_run_command_body(
            args.run_id, instance, write_stream_fn=on_event, set_exit_code_on_failure=True
        )


def resume_job(
    resume_job_args_packed: dict[str, Any],
    include: Sequence[str] = (),
    previous_task_id: str = "",
    **_newer: Any,
) -> None:
    """Go on with a run where it was when its process died.

    Args:
        resume_job_args_packed: a packed ``dagster._grpc.types.ResumeRunArgs``.
        include: modules to import before the job is loaded.
        previous_task_id: the task that had the run before; this one waits until that has ended.

    Raises:
        as :func:`execute_job`.
    """
    args = unpack_value(resume_job_args_packed, as_type=ResumeRunArgs)
    instance = instance_of(args)
    run = _run_to_execute(instance, args.run_id, RESUMABLE)
    with capture_interrupts(), _told_in_the_log(instance, run) as on_event:
        if previous_task_id:
            _wait_until_fenced(previous_task_id)
        job = _load(instance, run, args.job_origin, include)
        _run_to_execute(instance, args.run_id, RESUMABLE)
        _refuse_to_start_over(instance, args.run_id, job)
        _resume_run_command_body(
            args.run_id, instance, write_stream_fn=on_event, set_exit_code_on_failure=True
        )


def finalize_run(args_packed: dict[str, Any], task_id: str, worker_id: str, why: str) -> None:
    """Write the end of a run whose process has died here, and stop its steps.

    Args:
        args_packed: the packed arguments with which the run was sent.
        task_id: the run's task.
        worker_id: the worker that had started it.
        why: what happened, for the run's event log.

    Raises:
        TaskRevokedError: the task is not this worker's any more; somebody else sees to the run.
        ServerUnavailableError: the backend does not say whose the task is.
    """
    args = unpack_value(args_packed, as_type=(ExecuteRunArgs, ResumeRunArgs))
    instance = instance_of(args)
    client = _client_of_this_worker()
    task = client.tasks([task_id]).get(task_id)
    if task is not None and (task.state, task.worker) != (TaskState.STARTED, worker_id):
        raise TaskRevokedError(f"Task {task_id} is {task.state.value}.")
    if end_run(instance, args.run_id, why):
        stop_steps(instance, client, args.run_id, "the process of its run has ended")


def has_begun(args_packed: dict[str, Any], task_id: str) -> bool:
    """Return whether a worker has begun a task before, as the event log of its run has it.

    Asked where the backend has lost the task's record. A message that no task of ours can be made
    of, or whose run is not here, has begun nothing; why it cannot, it says when it is started.

    Args:
        args_packed: the packed arguments with which the task was sent.
        task_id: the task.
    """
    kinds: Any = (ExecuteStepArgs, ExecuteRunArgs, ResumeRunArgs)
    try:
        args = unpack_value(args_packed, as_type=kinds)
    except Exception:  # whatever is wrong with a message
        return False
    try:
        instance = instance_of(args)
    except TaskFailedError:  # it names none
        return False
    return task_id in begun_tasks(instance, args.run_id)


def free_step_of_ended_run(args_packed: dict[str, Any]) -> None:
    """Free what a step holds in Dagster's pools that was stopped or died, if its run has ended.

    As long as the run goes on, its loop does that.

    Args:
        args_packed: the packed arguments with which the step was sent.
    """
    args = unpack_value(args_packed, as_type=ExecuteStepArgs)
    instance = instance_of(args)
    if _run_of(instance, args.run_id).is_finished:
        for step_key in args.step_keys_to_execute or ():
            free_step(instance, args.run_id, step_key)


def _run_of(instance: DagsterInstance, run_id: str) -> DagsterRun:
    run = instance.get_run_by_id(run_id)
    if run is None:
        which = "" if current_policy() is None else " (with --allow, that of its own $DAGSTER_HOME)"
        raise TaskFailedError(
            f"Run {run_id} is not in the worker's Dagster instance{which}. Worker and run must use "
            "the same run storage; see `storage` in dagster.yaml."
        )
    return run


def _inject_env_vars(instance: DagsterInstance, run: DagsterRun) -> None:
    origin = run.remote_job_origin
    instance.inject_env_vars(origin.location_name if origin else None)


def _run_to_execute(
    instance: DagsterInstance, run_id: str, wanted: Sequence[DagsterRunStatus]
) -> DagsterRun:
    """Return a run that nobody has started, or resumed, before."""
    run = _run_of(instance, run_id)
    if run.status in wanted:
        return run
    if run.status is DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, message="The run was stopped before it started.")
    else:
        instance.report_engine_event(
            f"Dropped the run's task on worker {current_context().worker}: the run is "
            f"{run.status.value} already.",
            run,
        )
    raise TaskRevokedError(f"Run {run_id} is {run.status.value}.")


def _load(
    instance: DagsterInstance, run: DagsterRun, origin: JobPythonOrigin, include: Sequence[str]
) -> JobDefinition:
    """Load the job of a run, which may take long: what executes the run finds it loaded.

    So that a run which is terminated meanwhile ends as it should: Dagster looks at the run after
    it has loaded the job, and takes one that is CANCELING for one that somebody else executes.

    Raises:
        NotAllowedError: this worker may not load it, or a module of ``include``.
        CodeLoadError: it belongs into another Python environment, or cannot be loaded; the text
            says what is wrong, and where that was tried.
    """
    check_allowed(origin, include)
    # This is what Dagster executes, whatever the message says.
    if run.job_code_origin is not None:
        check_allowed(run.job_code_origin)
    check_environment(origin)
    make_importable(origin)
    with current_context().loading(repr(include)):
        import_included(include)
    _inject_env_vars(instance, run)
    job = recon_job_from_origin(origin).with_repository_load_data(_load_data_of(instance, run))
    try:
        with current_context().loading(repr(origin)):
            return job.get_definition()
    except Exception as error:
        raise CodeLoadError(
            f"its job cannot be loaded.\n{describe_failure(error)}\n{_where_code_is_looked_for()}"
        ) from None


def _where_code_is_looked_for() -> str:
    return f"The worker's working directory is {Path.cwd()} and its path is {sys.path}."


def _load_data_of(instance: DagsterInstance, run: DagsterRun) -> Any:
    if not run.has_repository_load_data or not run.execution_plan_snapshot_id:
        return None
    snapshot = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    return snapshot.repository_load_data


class StopNote:
    """What the log of a run says, once, where a worker stops what it executes of the run.

    Somebody who has the run or step cancelled knows why, and so does its log.
    """

    def __init__(
        self, instance: DagsterInstance, run: DagsterRun, what: str, step_key: str | None = None
    ) -> None:
        """Write nothing yet.

        Args:
            instance: where the run is.
            run: the run.
            what: what is executed here, to begin a sentence.
            step_key: the step in whose log it shall be.
        """
        self._instance = instance
        self._run = run
        self._what = what
        self._step_key = step_key
        self._is_written = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.write_if_stopped()

    def write_if_stopped(self) -> None:
        """Write it if the worker has asked for the stop meanwhile."""
        request = None if self._is_written else current_context().stop_request()
        if request is None or request.is_cancellation:
            return
        self._is_written = True
        why = request.reason.rstrip(".")
        text = f"{self._what} is stopped: {why[:1].lower()}{why[1:]}."
        self._instance.report_engine_event(text, self._run, step_key=self._step_key)


@contextmanager
def _told_in_the_log(
    instance: DagsterInstance, run: DagsterRun
) -> Iterator[Callable[[DagsterEvent], None]]:
    """See to it that a run which is executed inside ends, or that its log says why it has not.

    Returns:
        What is to be called with each event of the run when it has been written.
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
    failure: type[DagsterTaskiqError] = TaskFailedError
    stop_note = StopNote(instance, run, "The process of the run")
    try:
        with stop_note:
            yield lambda _event: stop_note.write_if_stopped()
    except BaseException as error:
        failure = CodeLoadError if isinstance(error, CodeLoadError) else TaskFailedError
        why = f"Worker {worker} on {host} cannot execute the run: {describe_failure(error)}"
    now = instance.get_run_by_id(run.run_id)
    if now is None or now.is_finished:
        return
    if end_run(instance, run.run_id, why):
        with suppress(ServerUnavailableError):
            reason = "the process of its run has ended"
            stop_steps(instance, _client_of_this_worker(), run.run_id, reason)
    raise failure(why)


def _wait_until_fenced(task_id: str) -> None:
    """Wait until the process that had a run before cannot write any more.

    Raises:
        TaskFailedError: it does not end.
    """
    client = _client_of_this_worker()
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
            raise TaskFailedError(
                f"Task {task_id}, which had the run before, does not end on worker {worker.name} "
                f"(host {worker.host}, pid {worker.pid}), though it was told to."
            )
        time.sleep(FENCE_LOOK_SECONDS)


def _refuse_to_start_over(instance: DagsterInstance, run_id: str, job: JobDefinition) -> None:
    """Refuse to resume a run whose executor would do again what has been done.

    Raises:
        TaskFailedError: that is so.
    """
    executor = job.executor_def.name
    if executor not in STARTS_OVER:
        return
    begun = instance.all_logs(run_id, of_type=DagsterEventType.STEP_START)
    if begun:
        raise TaskFailedError(
            f'The run cannot be resumed: its executor "{executor}" begins from the start, and '
            f"{len(begun)} step(s) had begun. Re-execute the run from its failure, or give the "
            "job an executor that resumes, such as taskiq_executor."
        )


def _client_of_this_worker() -> Client:
    return client_for(process_settings())


def _say_started(instance: DagsterInstance, run: DagsterRun, step_key: str) -> None:
    worker = current_context().worker
    DagsterEvent.step_worker_started(
        create_context_free_log_manager(instance, run),
        run.job_name,
        message=f'Worker {worker} started step "{step_key}".',
        metadata=beginning(worker),
        step_key=step_key,
    )
