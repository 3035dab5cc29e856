"""Reports what the ``dagster_celery`` it finds does, which may be the original or ours, as JSON.

Runs in a process of its own, with no server: what is executed is executed eagerly.
"""

import importlib
import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

from dagster import DagsterInstance, execute_job, reconstructable
from dagster._core.execution.retries import RetryMode
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import deserialize_value, pack_value
from dagster_shared.libraries import DagsterLibraryRegistry

warnings.simplefilter("ignore")  # older names warn, and that is tested elsewhere

import behaviour_jobs  # noqa: E402
from behaviour_jobs import EAGER  # noqa: E402

import dagster_celery  # noqa: E402
from dagster_celery.launcher import CeleryRunLauncher  # noqa: E402
from dagster_celery.make_app import make_app  # noqa: E402
from dagster_celery.tasks import create_task  # noqa: E402

#: Nobody serves this port.
AWAY: dict[str, Any] = {
    "broker": "redis://localhost:1/0",
    "backend": "redis://localhost:1/0",
    "config_source": {"task_publish_retry": False},
}


def outcome(name: str, raise_on_error: bool, config: dict[str, Any] = EAGER) -> list[Any]:
    """Return whether a job has succeeded, or what it raised; and its events about sending."""
    definition = getattr(behaviour_jobs, name)
    run_config = {} if name == "unsent" else {"execution": {"config": config}}
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
    retried = behaviour_jobs.retried
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
