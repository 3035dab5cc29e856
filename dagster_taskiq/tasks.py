"""What a worker can be asked to do, and how a child process does it.

``execute_plan`` runs one step of a run. Its arguments are the ones Dagster itself uses to hand a
step to another process, packed as JSON; nothing from the wire is ever unpickled.
"""

import asyncio
import inspect
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, get_type_hints

from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.execution.api import create_execution_plan, execute_plan_iterator
from dagster._core.execution.context_creation_job import create_context_free_log_manager
from dagster._core.storage.dagster_run import DagsterRun
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import deserialize_value, serialize_value, unpack_value
from dagster._utils.error import serializable_error_info_from_exc_info
from taskiq import AsyncBroker, TaskiqMessage, TaskiqResult
from taskiq.receiver import Receiver
from taskiq.receiver.params_parser import parse_params
from taskiq_dependencies import DependencyGraph

from dagster_taskiq.errors import (
    DagsterTaskiqError,
    TaskFailedError,
    TaskRevokedError,
    UnknownTaskError,
)
from dagster_taskiq.event_log import spare_setup

#: Name of the task that executes one step.
EXECUTE_PLAN = "execute_plan"

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

#: Called when the loop of the present task's run should look at the event log.
Wake = Callable[[], None]

_wake: ContextVar[Wake] = ContextVar("dagster_taskiq_wake")
_worker_name: ContextVar[str] = ContextVar("dagster_taskiq_worker_name", default="")


def register_tasks(broker: AsyncBroker) -> None:
    """Register every task of this module with ``broker``, under the names used on the wire."""
    broker.register_task(execute_plan, task_name=EXECUTE_PLAN)


@contextmanager
def task_surroundings(worker_name: str, wake: Wake) -> Iterator[None]:
    """Say, for the tasks performed inside, on whose behalf they run and how to wake a loop."""
    tokens = _wake.set(wake), _worker_name.set(worker_name)
    try:
        yield
    finally:
        _wake.reset(tokens[0])
        _worker_name.reset(tokens[1])


def execute_plan(
    execute_step_args_packed: dict[str, Any],
    executable_dict: dict[str, Any],
    wake_on_output: bool = False,
) -> None:
    """Execute one step of a run; what happens to it is written to Dagster's event log.

    Args:
        execute_step_args_packed: a packed ``dagster._grpc.types.ExecuteStepArgs``.
        executable_dict: ``ReconstructableJob.to_dict()`` of the job, subset included.
        wake_on_output: wake the run's loop at each output too, not only when the step ends.

    Raises:
        TaskRevokedError: the run has ended or is being cancelled; nothing was executed.
        TaskFailedError: the step could not be set up, e.g. its job cannot be imported. A step
            that was set up and then failed has its failure in the event log and raises nothing.
    """
    args = unpack_value(execute_step_args_packed, as_type=ExecuteStepArgs)
    if args.instance_ref is None:
        raise TaskFailedError("The message names no Dagster instance.")
    step_key = ", ".join(args.step_keys_to_execute or ())
    instance = instance_from(serialize_value(args.instance_ref))
    run = instance.get_run_by_id(args.run_id)
    if run is None:
        raise TaskFailedError(
            f"Run {args.run_id} is not in the worker's Dagster instance. Worker and run must use "
            "the same run storage; see `storage` in dagster.yaml."
        )
    spare_setup(instance, run.run_id)
    if run.is_finished or run.status == DagsterRunStatus.CANCELING:
        instance.report_engine_event(
            f"Dropped step {step_key} before it started: the run is {run.status.value}.",
            run,
            step_key=step_key,
        )
        raise TaskRevokedError(f"The run is {run.status.value}.")
    location = run.remote_job_origin.location_name if run.remote_job_origin else None
    instance.inject_env_vars(location)
    _say_started(instance, run, step_key)
    try:
        job = ReconstructableJob.from_dict(executable_dict)
        load_data = None
        if run.has_repository_load_data and run.execution_plan_snapshot_id:
            snapshot = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
            load_data = snapshot.repository_load_data
            job = job.with_repository_load_data(load_data)
        plan = create_execution_plan(
            job,
            run.run_config,
            step_keys_to_execute=args.step_keys_to_execute,
            known_state=args.known_state,
            repository_load_data=load_data,
        )
    except Exception:
        error = serializable_error_info_from_exc_info(sys.exc_info())
        raise TaskFailedError(
            f"Worker {_worker_name.get()} on {socket.gethostname()} cannot load the job of step "
            f"{step_key}: {error.to_string()}\nThe worker's working directory is {os.getcwd()} "  # noqa: PTH109
            f"and its path is {sys.path}."
        ) from None
    wanted = TERMINAL_EVENTS | OUTPUT_EVENTS if wake_on_output else TERMINAL_EVENTS
    wake = _wake.get()
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


@lru_cache(maxsize=8)
def instance_from(instance_ref: str) -> DagsterInstance:
    """Return the Dagster instance of a serialized ``InstanceRef``; kept open between tasks."""
    # On a fresh $DAGSTER_HOME several processes may create Dagster's tables at the same moment,
    # and Dagster lets one of them fail; what it wanted is there a moment later.
    for _ in range(5):
        try:
            return _open_instance(instance_ref)
        except Exception as error:
            if "already exists" not in str(error) and "locked" not in str(error):
                raise
            time.sleep(0.2)
    return _open_instance(instance_ref)


def perform(broker: AsyncBroker, message: TaskiqMessage) -> TaskiqResult[Any]:
    """Run the task that ``message`` asks for, in this thread, and return how it ended.

    A plain function without dependencies is called directly, with no event loop running, so that
    it may start one; all others run as taskiq runs them.
    """
    started = time.monotonic()
    task = broker.find_task(message.task_name)
    error: BaseException | None = None
    value: Any = None
    if task is None:
        known = ", ".join(sorted(broker.get_all_tasks()))
        error = UnknownTaskError(
            f"This worker has no task named {message.task_name!r}. Start it with --include naming "
            f"the module that defines it. It has: {known}."
        )
    elif _is_plain(task.original_func):
        try:
            function = task.original_func
            parse_params(inspect.signature(function), get_type_hints(function), message)
            value = function(*message.args, **message.kwargs)
        except BaseException as problem:
            error = problem
    else:
        receiver = Receiver(broker, run_startup=False, max_async_tasks=1)
        return _loop_for(broker).run_until_complete(receiver.run_task(task.original_func, message))
    return TaskiqResult(
        is_err=error is not None,
        return_value=value,
        execution_time=round(time.monotonic() - started, 3),
        labels=message.labels,
        error=error,
    )


def describe_failure(error: BaseException) -> str:
    """Return the text that tells the run's event log why a task failed."""
    if isinstance(error, DagsterTaskiqError):
        return str(error)
    info = serializable_error_info_from_exc_info(
        (type(error), error, error.__traceback__)  # type: ignore[arg-type] # may be None
    )
    return info.to_string()


def _open_instance(instance_ref: str) -> DagsterInstance:
    return DagsterInstance.from_ref(deserialize_value(instance_ref))  # type: ignore[arg-type]


def _say_started(instance: DagsterInstance, run: DagsterRun, step_key: str) -> None:
    worker = _worker_name.get()
    metadata: Mapping[str, str] = {
        "worker": worker,
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
    }
    DagsterEvent.step_worker_started(
        create_context_free_log_manager(instance, run),
        run.job_name,
        message=f'Worker {worker} started step "{step_key}".',
        metadata=metadata,
        step_key=step_key,
    )


@lru_cache(maxsize=1)
def _loop_for(broker: AsyncBroker) -> asyncio.AbstractEventLoop:
    """Return this process's loop for async tasks, with the broker open on it to send more."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(broker.startup())
    return loop


@lru_cache(maxsize=256)
def _is_plain(function: Callable[..., Any]) -> bool:
    return not inspect.iscoroutinefunction(function) and DependencyGraph(function).is_empty()
