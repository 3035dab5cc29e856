"""A project as dagster-celery's users have it: jobs, and tasks of its own on an app."""

import os
import time
from pathlib import Path
from typing import Any

from dagster import Config, Definitions, OpExecutionContext, RetryPolicy, job, op

from dagster_celery import celery_executor
from dagster_celery.app import app
from dagster_taskiq import taskiq_executor


class Notes(Config):
    directory: str


def note(directory: str, text: str) -> None:
    with (Path(directory) / "notes").open("a") as file:
        file.write(f"{text}\n")


@app.task(bind=True, name="describe")
def describe(self: Any, first: int, second: int = 0) -> dict[str, Any]:
    request = self.request
    return {
        "sum": first + second,
        "id": request.id,
        "hostname": request.hostname,
        "args": list(request.args),
        "kwargs": dict(request.kwargs),
        "queue": request.delivery_info["routing_key"],
        "priority": request.delivery_info["priority"],
        "pid": os.getpid(),
    }


@app.task(bind=True, name="same")
def same(self: Any, *values: Any, **named: Any) -> list[Any]:
    """Return the arguments, and what Python takes them for."""
    assert list(self.request.args) == list(values) and self.request.kwargs == named
    return [list(values), named, [type(each).__name__ for each in values]]


@app.task
def fail(text: str) -> None:
    raise ValueError(text)


@app.task
def go_on_after(path: str, seconds: float = 30) -> str:
    """Write a file when it runs, and return when there is a second file."""
    Path(path).write_text(str(os.getpid()))
    deadline = time.monotonic() + seconds
    while not Path(f"{path}.go").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return "went on"


@app.task(name="execute_step_of_library")
def execute_step_of_library(execute_step_args_packed: dict[str, Any], **_: Any) -> list[str]:
    """Return what the tasks of libraries on dagster-celery return: the events of a step."""
    return [f"the events of {execute_step_args_packed['step_keys_to_execute']}"]


@op(tags={"dagster-celery/queue": "side", "dagster-celery/priority": "7"})
def aside(context: OpExecutionContext, config: Notes) -> int:
    note(config.directory, f"aside {os.getpid()}")
    return 1


@op(retry_policy=RetryPolicy(max_retries=1))
def then(context: OpExecutionContext, config: Notes, number: int) -> int:
    note(config.directory, f"then {context.retry_number}")
    if context.retry_number == 0:
        raise ValueError("the first time it does not work")
    return number + 1


@job(executor_def=celery_executor)
def old_job() -> None:
    then(aside())


@job(executor_def=taskiq_executor)
def new_job() -> None:
    then(aside())


@op
def long_one(context: OpExecutionContext, config: Notes) -> int:
    note(config.directory, f"long {os.getpid()}")
    time.sleep(600)
    return 1


@op
def after_it(config: Notes, number: int) -> None:
    note(config.directory, "after")


@job(executor_def=celery_executor)
def long_job() -> None:
    after_it(long_one())


defs = Definitions(jobs=[old_job, new_job, long_job])
