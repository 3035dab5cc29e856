"""Keeping the connections to Dagster's storage for a whole run, from before it is created.

A run's loop keeps them while steps execute. What Dagster does before, to create and start the run,
and after that, to end it, takes some twenty statements, each with a connection of its own.
"""

import inspect
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import wrapt
from dagster import ExecutorDefinition, JobDefinition

from dagster_taskiq.dagster_internals.part import DagsterPart

#: The functions by which ``execute_job`` creates and executes a run, and the first parameter.
_MODULE = "dagster._core.execution.api"
_FUNCTIONS = ("_logged_execute_job", "_reexecute_job")
_PARAMETER = "job_arg"


def _check() -> str:
    module = import_module(_MODULE)
    for name in _FUNCTIONS:
        parameters = list(inspect.signature(getattr(module, name)).parameters)
        if parameters[:1] != [_PARAMETER]:
            return f"{name} has the parameters {parameters}"
    return ""


PART = DagsterPart(
    name="connections of whole runs",
    touches=f"{' and '.join(_FUNCTIONS)} in {_MODULE} (wrapped)",
    why=(
        "execute_job, which `dagster job execute` calls too, opens a connection to Dagster's "
        "storage for each statement that creates, starts and ends a run: some twenty, as many as "
        "the rest of the run would need with thousands of steps. For a job with an executor of "
        "this package, one is kept from the beginning of the call to its end."
    ),
    otherwise="Connections are kept by the run's loop alone.",
    check=_check,
)


def keep_for(executor: ExecutorDefinition) -> None:
    """Keep connections for the whole of each run that ``execute_job`` executes with an executor."""
    _OURS.add(executor.executor_creation_fn)
    _install()


#: The functions that create the executors for which connections are kept.
_OURS: set[Callable[..., Any] | None] = set()


@cache
def _install() -> None:
    if PART.find_problem():
        return
    for name in _FUNCTIONS:
        wrapt.wrap_function_wrapper(import_module(_MODULE), name, _execute)


def _execute(wrapped: Any, _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not _is_ours(*args, **kwargs):
        return wrapped(*args, **kwargs)
    # Imported here: a code location that only defines jobs does not need it.
    from dagster_taskiq.dagster_internals.storage_connections import (  # noqa: PLC0415
        open_connections_kept,
    )

    with open_connections_kept():
        return wrapped(*args, **kwargs)


def _is_ours(job_arg: Any, *_args: Any, **_kwargs: Any) -> bool:
    job = job_arg if isinstance(job_arg, JobDefinition) else job_arg.get_definition()
    return job.executor_def.executor_creation_fn in _OURS
