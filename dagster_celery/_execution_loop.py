"""The run loop for steps that a function of the executor sends."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

from dagster import DagsterEvent
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import unpack_value

from dagster_celery._celery_app.app import CeleryApp
from dagster_celery._step_events import by_step
from dagster_celery._submission_error import with_submission_error
from dagster_celery._submitting_client import StepResult, SubmittingClient
from dagster_taskiq.client import client_for
from dagster_taskiq.executor import TaskiqExecutor
from dagster_taskiq.runs.run_loop import RunLoop
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.task_request import TaskRequest

#: Executors of this kind mark the waiting of a step with it, in Dagster's events.
DELEGATE_MARKER = "celery_queue_wait"

#: Sends a step. Its arguments: app, context, step, queue, priority and known state.
StepExecutionFn = Callable[..., StepResult]


def core_celery_execution_loop(
    job_context: PlanOrchestrationContext,
    execution_plan: ExecutionPlan,
    step_execution_fn: StepExecutionFn,
) -> Iterator[DagsterEvent]:
    """Execute a plan whose steps a function sends.

    Args:
        job_context: Dagster's context; its executor has ``app_args()``, for :func:`make_app`, and
            ``retries``.
        execution_plan: the steps to execute.
        step_execution_fn: called with the app, the context, the step, its queue, its priority and
            the known state of the run, as far as it concerns the step. Returns the result of a task
            of the app; or any object with ``ready()``, ``get()`` and ``revoke()``. The step's
            events are read from Dagster's event log.

    Yields:
        The run's events, those of a step together when it has ended.

    Raises:
        as ``TaskiqExecutor.execute``, and what the function raises.
    """
    executor: Any = job_context.executor
    app = _make_app(executor.app_args())
    failed: list[Exception] = []

    def submit(*args: Any) -> StepResult:
        try:
            return step_execution_fn(*args)
        except Exception as error:
            failed.append(error)
            raise

    open_client = partial(_client, app, job_context, execution_plan, submit)
    ours = TaskiqExecutor(_settings_of(app), executor.retries)
    # A failed step is in the log, and is not raised, as with celery_executor.
    options = replace(ours.run_options, raises_step_errors=False)
    events = by_step(RunLoop(options, job_context, execution_plan, open_client).events())
    return with_submission_error(job_context, events, failed.__contains__)


def _make_app(app_args: dict[str, Any]) -> object:
    """Return the app that the public module makes, where a project may have put another function.

    A test that has its steps executed without a broker does that. What it returns is handed to the
    function that sends steps, and is else not used.
    """
    made: object = import_module("dagster_celery.core_execution_loop").make_app(app_args)
    return made


def _settings_of(app: object) -> Settings:
    """Return those of an app; in memory for one of another kind, which sends to elsewhere."""
    if isinstance(app, CeleryApp):
        return app.configuration.settings
    return Settings.from_dict({"broker": "memory://"})


def _client(
    app: object,
    context: PlanOrchestrationContext,
    plan: ExecutionPlan,
    step_execution_fn: StepExecutionFn,
    settings: Settings,
) -> SubmittingClient:
    """Return the run loop's client, which has each step sent by the function."""

    def send(request: TaskRequest) -> StepResult:
        packed = request.kwargs["execute_step_args_packed"]
        state = unpack_value(packed, as_type=ExecuteStepArgs).known_state
        step = plan.get_step_by_key(request.step_key)
        return step_execution_fn(app, context, step, request.queue, request.priority, state)

    return SubmittingClient(client_for(settings), send)
