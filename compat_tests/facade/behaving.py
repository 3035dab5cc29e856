"""Reports what the ``dagster_celery`` it finds does, which may be the original or ours, as JSON.

Runs in a process of its own, with no server: what is executed is executed eagerly.
"""

import importlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from dagster import (
    DagsterInstance,
    Executor,
    OpExecutionContext,
    RetryPolicy,
    execute_job,
    executor,
    job,
    multiple_process_executor_requirements,
    op,
    reconstructable,
)
from dagster._core.execution.retries import RetryMode
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import deserialize_value, pack_value
from dagster_shared.libraries import DagsterLibraryRegistry

warnings.simplefilter("ignore")  # older names warn, and that is tested elsewhere

import dagster_celery  # noqa: E402
from dagster_celery import celery_executor  # noqa: E402
from dagster_celery.core_execution_loop import core_celery_execution_loop  # noqa: E402
from dagster_celery.launcher import CeleryRunLauncher  # noqa: E402
from dagster_celery.make_app import make_app  # noqa: E402
from dagster_celery.tasks import create_task  # noqa: E402

#: The original sends eager tasks nowhere; a broker is named so that none is looked for.
EAGER: dict[str, Any] = {
    "broker": "memory://",
    "backend": "rpc://",
    "config_source": {"task_always_eager": True},
}


@op(retry_policy=RetryPolicy(max_retries=1))
def second_time(context: OpExecutionContext) -> None:
    if context.retry_number == 0:
        raise ValueError("not yet")


@op
def never() -> None:
    raise ValueError("never")


@op
def at_once() -> int:
    return 1


@op(tags={"dagster-celery/priority": "high"})
def with_words() -> int:
    return 1


class Unsending(Executor):
    """An executor whose steps cannot be sent."""

    retries = RetryMode.DISABLED

    def app_args(self) -> dict[str, Any]:
        return dict(EAGER)

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[Any]:
        def submit(*_: object) -> Any:
            raise OSError("no way to send it")

        return core_celery_execution_loop(plan_context, execution_plan, submit)


@executor(requirements=multiple_process_executor_requirements())
def unsending(_: object) -> Executor:
    return Unsending()


@job(executor_def=celery_executor)
def retried() -> None:
    second_time()


@job(executor_def=celery_executor)
def failing() -> None:
    never()


@job(executor_def=celery_executor, tags={"dagster-celery/run_priority": "high"})
def words_for_the_priority_of_a_run() -> None:
    at_once()


@job(executor_def=celery_executor)
def words_for_the_priority_of_a_step() -> None:
    with_words()


@job(executor_def=unsending)
def unsent() -> None:
    at_once()


#: Nobody serves this port.
AWAY: dict[str, Any] = {
    "broker": "redis://localhost:1/0",
    "backend": "redis://localhost:1/0",
    "config_source": {"task_publish_retry": False},
}


def outcome(name: str, raise_on_error: bool, config: dict[str, Any] = EAGER) -> list[Any]:
    """Return whether a job has succeeded, or what it raised; and its events about sending."""
    definition = globals()[name]
    run_config = {} if definition is unsent else {"execution": {"config": config}}
    with DagsterInstance.get() as instance:
        try:
            with execute_job(
                reconstructable(definition),
                instance,
                run_config=run_config,
                raise_on_error=raise_on_error,
            ) as result:
                found: Any = result.success
        except Exception as error:
            found = f"raised: {error}"
        (run, *_) = instance.get_runs(limit=1)
        said = [entry.dagster_event for entry in instance.all_logs(run.run_id)]
    return [found, [each.message for each in said if each and "submission" in str(each.message)]]


def events_of_a_direct_call() -> list[str]:
    """Return the kinds of events of the second call, from the start of the step on."""
    recon = reconstructable(retried)
    with DagsterInstance.get() as instance:
        run = instance.create_run_for_job(retried, run_config={"execution": {"config": EAGER}})
        args = ExecuteStepArgs(
            job_origin=recon.get_python_origin(),
            run_id=run.run_id,
            step_keys_to_execute=["second_time"],
            instance_ref=instance.get_ref(),
            retry_mode=RetryMode.DEFERRED,
        )
        task = create_task(make_app(EAGER))
        for _ in range(2):
            returned = task(pack_value(args), recon.to_dict())
    kinds = [deserialize_value(each).event_type_value for each in returned]
    return kinds[1:]  # the first is about the worker that has begun it


def conf(names: list[str], **app_args: Any) -> list[Any]:
    app = make_app({"broker": "redis://host", **app_args})
    return [app.conf[each] for each in names]


def attempt(find: Callable[[], Any]) -> Any:
    try:
        return find()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main() -> None:
    launcher = CeleryRunLauncher("q", broker="redis://host")
    source = {"config_source": {"worker_concurrency": 2}}
    setting = ["worker_concurrency", "task_time_limit"]
    reported = {
        "a failed op": attempt(lambda: outcome("failing", True)),
        "a retried op": attempt(lambda: outcome("retried", True)),
        "a run's priority": attempt(lambda: outcome("words_for_the_priority_of_a_run", False)),
        "a step's priority": attempt(lambda: outcome("words_for_the_priority_of_a_step", False)),
        "a step unsent": attempt(lambda: outcome("unsent", False)),
        "a step unsent, raised": attempt(lambda: outcome("unsent", True)),
        "a broker that is away": attempt(lambda: outcome("failing", False, AWAY)),
        "events of a direct call": attempt(events_of_a_direct_call),
        "an argument of make_app": attempt(
            lambda: conf(setting, worker_concurrency=9, changes={"task_time_limit": 7}, **source)
        ),
        "the launcher's app": launcher.celery is launcher.celery,
        "libraries": "dagster-celery" in DagsterLibraryRegistry.get(),
    }
    json.dump({"file": dagster_celery.__file__, "reported": reported}, sys.stdout)


if __name__ == "__main__":
    # Imported by its name, so that its jobs are found again.
    importlib.import_module("behaving").main()
