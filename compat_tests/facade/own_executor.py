"""An executor as libraries on dagster-celery have it: each step is a task that starts a process.

The process is that of Dagster's own command for a step, as a container would run it.
"""

import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dagster import (
    Config,
    DagsterEventType,
    DagsterInstance,
    Executor,
    ExecutorDefinition,
    executor,
    job,
    multiple_process_executor_requirements,
    op,
)
from dagster._core.events import EngineEventData
from dagster._core.execution.retries import RetryMode
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import pack_value, serialize_value, unpack_value

from compat_tests.facade.shapes import shapes
from compat_tests.preloaded import run_program
from compat_tests.waiting import eventually
from dagster_celery.config import DEFAULT_CONFIG, dict_wrapper
from dagster_celery.core_execution_loop import DELEGATE_MARKER, core_celery_execution_loop
from dagster_celery.defaults import broker_url, result_backend
from dagster_celery.executor import CELERY_CONFIG
from dagster_celery.make_app import make_app_with_task_routes
from dagster_celery.tasks import create_task
from dagster_taskiq.errors import ServerUnavailableError

ROUTES = {"execute_step_own": {"queue": "dagster", "routing_key": "dagster.execute_step_own"}}

_threads = ThreadPoolExecutor(4)


class OwnExecutor(Executor):
    def __init__(self, config: dict[str, Any], submit: Any) -> None:
        self._retries = RetryMode.from_config(config["retries"])
        self.broker = config.get("broker") or broker_url
        self.backend = config.get("backend") or result_backend
        self.include = config.get("include") or []
        self.config_source = dict_wrapper({**DEFAULT_CONFIG, **(config.get("config_source") or {})})
        self._submit = submit

    @property
    def retries(self) -> Any:
        return self._retries

    def execute(self, plan_context: Any, execution_plan: Any) -> Any:
        return core_celery_execution_loop(
            plan_context, execution_plan, step_execution_fn=self._submit
        )

    def app_args(self) -> dict[str, Any]:
        return {
            "broker": self.broker,
            "backend": self.backend,
            "include": self.include,
            "config_source": self.config_source,
            "retries": self.retries,
        }


def step_args(plan_context: Any, step: Any, known_state: Any) -> ExecuteStepArgs:
    return ExecuteStepArgs(
        job_origin=plan_context.reconstructable_job.get_python_origin(),
        run_id=plan_context.dagster_run.run_id,
        step_keys_to_execute=[step.key],
        instance_ref=plan_context.instance.get_ref(),
        retry_mode=plan_context.executor.retries.for_inner_plan(),
        known_state=known_state,
        print_serialized_events=True,
    )


def run_step(args: ExecuteStepArgs) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    module, *arguments = args.get_command_args()
    done = run_program(module, arguments, environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def create_own_task(celery_app: Any, **task_kwargs: Any) -> Any:
    @celery_app.task(bind=True, name="execute_step_own", **task_kwargs)
    def _execute_step_own(self: Any, execute_step_args_packed: Any) -> list[str]:
        args = unpack_value(execute_step_args_packed, as_type=ExecuteStepArgs)
        with DagsterInstance.from_ref(args.instance_ref) as instance:
            event = instance.report_engine_event(
                f"A project's own task starts the step on {self.request.hostname}.",
                instance.get_run_by_id(args.run_id),
                EngineEventData({}, marker_end=DELEGATE_MARKER),
                step_key=args.step_keys_to_execute[0],
            )
        run_step(args)
        return [serialize_value(event)]

    return _execute_step_own


def submit_task(
    app: Any, plan_context: Any, step: Any, queue: str, priority: int, known_state: Any
) -> Any:
    signature = create_own_task(app).si(
        execute_step_args_packed=pack_value(step_args(plan_context, step, known_state))
    )
    return signature.apply_async(
        priority=priority, queue=queue, routing_key=f"{queue}.execute_step_own"
    )


class Elsewhere:
    """The result of a step that runs in a process which no worker knows."""

    def __init__(self, future: "Future[None]") -> None:
        self._future = future

    def ready(self) -> bool:
        return self._future.done()

    def get(self) -> list[str]:
        self._future.result()
        return []

    def revoke(self) -> None:
        self._future.cancel()


def submit_elsewhere(
    app: Any, plan_context: Any, step: Any, queue: str, priority: int, known_state: Any
) -> Elsewhere:
    return Elsewhere(_threads.submit(run_step, step_args(plan_context, step, known_state)))


def submit_plan(
    app: Any, plan_context: Any, step: Any, queue: str, priority: int, known_state: Any
) -> Any:
    """Send Dagster's own task for a step, which every worker has."""
    signature = create_task(app).si(
        execute_step_args_packed=pack_value(step_args(plan_context, step, known_state)),
        executable_dict=plan_context.reconstructable_job.to_dict(),
    )
    return signature.apply_async(priority=priority, queue=queue)


class Wrapped:
    """A result of which the loop knows nothing but these three methods."""

    def __init__(self, result: Any) -> None:
        self.ready, self.get, self.revoke = result.ready, result.get, result.revoke


def submit_wrapped(*arguments: Any) -> Wrapped:
    return Wrapped(submit_plan(*arguments))


#: The steps that ``cut`` was asked to send, in order.
asked_for: list[str] = []


def cut(submit: Any) -> Any:
    """Return a function that sends as ``submit``, but not the step "right" at the first try.

    It fails once "left" has ended, which was sent just before it.
    """

    def submit_or_fail(app: Any, plan_context: Any, step: Any, *others: Any) -> Any:
        def left_has_ended() -> bool:
            logged = plan_context.instance.all_logs(
                plan_context.run_id, of_type=DagsterEventType.STEP_SUCCESS
            )
            return any(entry.step_key == "left" for entry in logged)

        asked_for.append(step.key)
        if asked_for.count("right") == 1 and step.key == "right":
            eventually(left_has_ended, 'the end of "left"')
            raise ServerUnavailableError("The broker is away.")
        return submit(app, plan_context, step, *others)

    return submit_or_fail


def executor_of(name: str, submit: Any) -> ExecutorDefinition:
    @executor(
        name=name,
        config_schema=CELERY_CONFIG,
        requirements=multiple_process_executor_requirements(),
    )
    def made(init_context: Any) -> OwnExecutor:
        return OwnExecutor(init_context.executor_config, submit)

    return made


own_executor = executor_of("own", submit_task)
elsewhere_executor = executor_of("elsewhere", submit_elsewhere)


class Where(Config):
    directory: str
    fails: bool = False


def note(where: Where, text: str) -> None:
    with (Path(where.directory) / "notes").open("a") as file:
        file.write(f"{text}\n")
    if where.fails:
        raise ValueError(f"{text} does not work")


@op
def first(config: Where) -> int:
    note(config, "first")
    return 1


@op
def second(config: Where, number: int) -> int:
    note(config, "second")
    return number + 1


@op
def third(config: Where, number: int) -> int:
    note(config, "third")
    return number + 1


@job(executor_def=own_executor)
def by_task_job() -> None:
    third(second(first()))


@job(executor_def=elsewhere_executor)
def elsewhere_job() -> None:
    third(second(first()))


@job(executor_def=executor_of("plan", submit_plan))
def plan_shapes() -> None:
    shapes()


@job(executor_def=executor_of("wrapped", submit_wrapped))
def wrapped_shapes() -> None:
    shapes()


@job(executor_def=executor_of("cut_plan", cut(submit_plan)))
def cut_plan_shapes() -> None:
    shapes()


@job(executor_def=executor_of("cut_wrapped", cut(submit_wrapped)))
def cut_wrapped_shapes() -> None:
    shapes()


# For workers: `-A compat_tests.facade.own_executor`.
app = make_app_with_task_routes(task_routes=ROUTES, app_args=None)
create_own_task(app)
