"""The task that executes one step of a run."""

import socket
from collections.abc import Iterator
from typing import Any

from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.events import DagsterEvent
from dagster._core.execution.api import execute_plan_iterator
from dagster._core.execution.context_creation_job import create_context_free_log_manager
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.storage.dagster_run import DagsterRun
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import unpack_value

from dagster_taskiq.dagster_internals.event_log_setup import mark_initialized
from dagster_taskiq.dagster_internals.step_plans import plan_of_step
from dagster_taskiq.errors import CodeLoadError, NotAllowedError, TaskRevokedError
from dagster_taskiq.execution.code_loading import (
    check_allowed,
    describe_search_path,
    load_data_of,
    make_importable,
)
from dagster_taskiq.execution.dagster_outcomes import STEP_ENDS, note_step_event
from dagster_taskiq.execution.instances import find_run, inject_env_vars, instance_of
from dagster_taskiq.execution.internal_tasks import free_step_of_ended_run
from dagster_taskiq.execution.perform import describe_failure
from dagster_taskiq.execution.pool_slots import pool_of
from dagster_taskiq.execution.python_environments import check_environment
from dagster_taskiq.execution.stop_note import StopNote
from dagster_taskiq.execution.task_beginnings import beginning
from dagster_taskiq.execution.task_context import current_context

#: Events at which the loop of a run is woken, besides the ends of steps, if steps may start before
#: their upstream step has ended.
OUTPUT_EVENTS = frozenset({DagsterEventType.STEP_OUTPUT})


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
        _newer: arguments that a newer release adds; as with the other tasks, only such as an older
            worker can do without.

    Raises:
        NoInstanceError: the arguments name no Dagster instance.
        RunNotFoundError: the run is not in this worker's instance.
        TaskRevokedError: the run has ended or is being cancelled; nothing was executed.
        NotAllowedError: this worker may not load the job.
        CodeLoadError: the job cannot be loaded, or belongs into another Python environment.

    A step that was set up and then failed has its failure in the event log, and raises nothing.
    """
    for _ in step_events(execute_step_args_packed, executable_dict, wake_on_output):
        pass


def step_events(
    execute_step_args_packed: dict[str, Any],
    executable_dict: dict[str, Any],
    wake_on_output: bool = False,
) -> Iterator[DagsterEvent]:
    """Execute one step of a run, as :func:`execute_plan` does.

    Yields:
        The events of this execution, which are in the event log as well.

    Raises:
        as :func:`execute_plan`.
    """
    args = unpack_value(execute_step_args_packed, as_type=ExecuteStepArgs)
    step_key = ", ".join(args.step_keys_to_execute or ())
    instance = instance_of(args)
    run = find_run(instance, args.run_id)
    mark_initialized(instance, run.run_id)  # spares setting up the file of the run's events
    _refuse_if_ended(instance, run, step_key)
    check_allowed(args.job_origin)
    inject_env_vars(instance, run)
    yield _report_started(instance, run, step_key)
    job, plan = _load(instance, run, args, executable_dict, step_key)
    wake_at = STEP_ENDS.keys() | (OUTPUT_EVENTS if wake_on_output else ())
    wake = current_context().wake
    with StopNote(instance, run, f'Step "{step_key}"', step_key) as stop_note:
        for event in execute_plan_iterator(
            plan, job, run, instance, retry_mode=args.retry_mode, run_config=run.run_config
        ):
            if event.event_type in wake_at:
                wake()
                note_step_event(event)
                stop_note.write_if_stopped()
            yield event
    if any(pool_of(step) for step in plan.get_steps_to_execute_in_topo_order()):
        # The loop of the run frees the slots of a step in Dagster's pools when it reads the step's
        # end. If the run has ended while the step was running, that loop is gone.
        free_step_of_ended_run(execute_step_args_packed)


def _refuse_if_ended(instance: DagsterInstance, run: DagsterRun, step_key: str) -> None:
    if run.is_finished or run.status == DagsterRunStatus.CANCELING:
        instance.report_engine_event(
            f"Dropped step {step_key} before it started: the run is {run.status.value}.",
            run,
            step_key=step_key,
        )
        raise TaskRevokedError(f"The run is {run.status.value}.")


def _report_started(instance: DagsterInstance, run: DagsterRun, step_key: str) -> DagsterEvent:
    worker = current_context().worker
    return DagsterEvent.step_worker_started(
        create_context_free_log_manager(instance, run),
        run.job_name,
        message=f'Worker {worker} started step "{step_key}".',
        metadata=beginning(worker),
        step_key=step_key,
    )


def _load(
    instance: DagsterInstance,
    run: DagsterRun,
    args: ExecuteStepArgs,
    executable_dict: dict[str, Any],
    step_key: str,
) -> tuple[ReconstructableJob, ExecutionPlan]:
    """Load the job of a step, and plan the step.

    Raises:
        NotAllowedError, CodeLoadError: as for :func:`execute_plan`.
    """
    try:
        check_environment(args.job_origin)
    except CodeLoadError as error:
        raise _code_error(f"cannot run step {step_key}: {error}") from None
    make_importable(args.job_origin)
    try:
        job = ReconstructableJob.from_dict(executable_dict)
        # This is the job that is executed; the arguments may name another one.
        check_allowed(job.get_python_origin())
        load_data = load_data_of(instance, run)
        if load_data is not None:
            job = job.with_repository_load_data(load_data)
        with current_context().loading(repr(args.job_origin)):
            return job, plan_of_step(job, run, args, load_data)
    except NotAllowedError:
        raise
    except Exception as error:
        raise _code_error(
            f"cannot load the job of step {step_key}: {describe_failure(error)}\n"
            f"{describe_search_path()}"
        ) from None


def _code_error(text: str) -> CodeLoadError:
    return CodeLoadError(f"Worker {current_context().worker} on {socket.gethostname()} {text}")
