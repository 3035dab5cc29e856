"""Loading the code of a job in the process that executes it."""

import importlib
import sys
from collections.abc import Iterable

from dagster._core.code_pointer import (
    FileCodePointer,
)
from dagster._core.origin import JobPythonOrigin

from dagster_taskiq.errors import TaskFailedError
from dagster_taskiq.execution.allowed_code import current_policy
from dagster_taskiq.execution.code_location import MODULE_POINTERS, working_directory_of


def check_allowed(origin: JobPythonOrigin, include: Iterable[str] = ()) -> None:
    """Let through a job, and modules to import before it, that this process may load.

    Nothing is imported to find out.

    Raises:
        NotAllowedError: the worker's operator has not allowed it.
    """
    allowed = current_policy()
    if allowed is None:
        return
    pointer = origin.repository_origin.code_pointer
    directory = working_directory_of(origin)
    # By their exact kinds: others may load what they like.
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


def make_importable(origin: JobPythonOrigin) -> None:
    """Let this process import what lies in the code location's working directory.

    Dagster does so only while it loads the job; in the process that launches a run by default, it
    is there for what an op imports as it runs as well.
    """
    directory = working_directory_of(origin)
    if directory and directory not in sys.path:
        sys.path.append(directory)


def import_included(modules: Iterable[str]) -> None:
    """Import the modules that the launcher's ``include`` names.

    Raises:
        TaskFailedError: one of them cannot be imported.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise TaskFailedError(
                f"Cannot import {name}, which the launcher's include names: "
                f"{type(error).__name__}: {error}"
            ) from error
