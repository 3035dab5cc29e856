"""Loading the code of a job in the process that executes it."""

import importlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from dagster import DagsterInstance, JobDefinition
from dagster._core.code_pointer import FileCodePointer
from dagster._core.definitions.repository_definition import RepositoryLoadData
from dagster._core.origin import JobPythonOrigin
from dagster._core.storage.dagster_run import DagsterRun
from dagster._utils.hosted_user_process import recon_job_from_origin

from dagster_taskiq.errors import CodeLoadError
from dagster_taskiq.execution.allowed_code import current_policy
from dagster_taskiq.execution.code_location import MODULE_POINTERS, working_directory_of
from dagster_taskiq.execution.instances import inject_env_vars
from dagster_taskiq.execution.perform import describe_failure
from dagster_taskiq.execution.python_environments import check_environment
from dagster_taskiq.execution.task_context import current_context


def check_allowed(origin: JobPythonOrigin, include: Iterable[str] = ()) -> None:
    """Check that this process may load a job, and modules that are imported before it.

    Nothing is imported to find out.

    Raises:
        NotAllowedError: the worker's operator has not allowed it.
    """
    allowed = current_policy()
    if allowed is None:
        return
    pointer = origin.repository_origin.code_pointer
    directory = working_directory_of(origin)
    # By their exact kinds: others may load any code.
    if type(pointer) is FileCodePointer:
        allowed.check_file(pointer.python_file, directory)
    elif type(pointer) in MODULE_POINTERS:
        module: str = pointer.module  # type: ignore[attr-defined] # each of them has one
        allowed.check_module(module, directory)
    else:
        kind = type(pointer).__name__
        raise allowed.refusal(f"what a code pointer of the kind {kind} points to")
    for name in include:
        if name not in allowed.included:
            allowed.check_module(name, directory)


def load_job(
    instance: DagsterInstance, run: DagsterRun, origin: JobPythonOrigin, include: Sequence[str]
) -> JobDefinition:
    """Load the job of a run, which may take long, before Dagster executes the run.

    A run that is terminated while its job is loaded ends as CANCELED then. Dagster's own order is
    another: it looks at the run after it has loaded the job, and takes a run that is CANCELING for
    one that another process executes.

    Args:
        instance: the instance of the run.
        run: the run.
        origin: where its job is.
        include: modules to import before.

    Raises:
        NotAllowedError: this worker may not load it, or a module of ``include``.
        CodeLoadError: it belongs into another Python environment, or cannot be loaded; the text
            says why, and where that was tried.
    """
    check_allowed(origin, include)
    # This is what Dagster executes; the message may name another job.
    if run.job_code_origin is not None:
        check_allowed(run.job_code_origin)
    check_environment(origin)
    make_importable(origin)
    with current_context().loading(repr(include)):
        _import_included(include)
    inject_env_vars(instance, run)
    job = recon_job_from_origin(origin).with_repository_load_data(load_data_of(instance, run))
    try:
        with current_context().loading(repr(origin)):
            return job.get_definition()
    except Exception as error:
        raise CodeLoadError(
            f"its job cannot be loaded.\n{describe_failure(error)}\n{describe_search_path()}"
        ) from None


def make_importable(origin: JobPythonOrigin) -> None:
    """Let this process import from the code location's working directory, also later.

    Dagster does so only while it loads the job. By default the process that launches a run has the
    directory on its path, also for what an op imports as it runs.
    """
    directory = working_directory_of(origin)
    if directory and directory not in sys.path:
        sys.path.append(directory)


def load_data_of(instance: DagsterInstance, run: DagsterRun) -> RepositoryLoadData | None:
    """Return what a run's repository was loaded with, if that was recorded."""
    if not run.has_repository_load_data or not run.execution_plan_snapshot_id:
        return None
    snapshot = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    return snapshot.repository_load_data


def describe_search_path() -> str:
    """Return a sentence on where this process looks for code."""
    return f"The worker's working directory is {Path.cwd()} and its path is {sys.path}."


def _import_included(modules: Iterable[str]) -> None:
    """Import the modules that the launcher's ``include`` names.

    Raises:
        CodeLoadError: one of them cannot be imported.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise CodeLoadError(
                f"Cannot import {name}, which the launcher's include names: "
                f"{type(error).__name__}: {error}"
            ) from error
