"""Where the code of a run is: what a worker must have at hand before it loads a job."""

import importlib
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from dagster._core.code_pointer import (
    AutoloadDefsModuleCodePointer,
    FileCodePointer,
    ModuleCodePointer,
    PackageCodePointer,
)
from dagster._core.origin import JobPythonOrigin

from dagster_taskiq.allowed_code import bound
from dagster_taskiq.errors import TaskFailedError

#: Pointers to a module that is imported.
_MODULE_POINTERS = (ModuleCodePointer, PackageCodePointer, AutoloadDefsModuleCodePointer)


def working_directory_of(origin: JobPythonOrigin) -> str:
    """Return the directory from which a job's code location imports; empty where it names none."""
    pointer = origin.repository_origin.code_pointer
    # Each kind of Dagster's pointers has one, but for those of a project's own making.
    return str(getattr(pointer, "working_directory", None) or "")


def source_of(origin: JobPythonOrigin) -> str:
    """Return the file in which a job's code location is; its module where it is not loaded here."""
    pointer = origin.repository_origin.code_pointer
    module = getattr(pointer, "module", None) or ""
    file = getattr(sys.modules.get(module), "__file__", None)
    return str(getattr(pointer, "python_file", None) or file or module)


def lines_of(origin: JobPythonOrigin, text: str) -> tuple[tuple[str, int], ...]:
    """Return each line of a code location's own source that holds a text: its file, its number.

    What is looked through is the file of the code location, or the package that its module is in.
    Nothing is imported: the process that launches a run need not be able to.
    """
    pointer = origin.repository_origin.code_pointer
    file = getattr(pointer, "python_file", None)
    top = str(getattr(pointer, "module", None) or "").partition(".")[0]
    return _lines_of(working_directory_of(origin), file or f"{top}.py", text)


@lru_cache(maxsize=256)
def _lines_of(directory: str, source: str, text: str) -> tuple[tuple[str, int], ...]:
    file = Path(directory, source)
    files = [file] if file.is_file() else sorted(file.with_suffix("").rglob("*.py"))
    return tuple(
        (str(each), number)
        for each in files
        for number, line in enumerate(each.read_text(errors="replace").splitlines(), 1)
        if text in line
    )


def check_allowed(origin: JobPythonOrigin, include: Iterable[str] = ()) -> None:
    """Let through a job, and modules to import before it, that this process may load.

    Nothing is imported to find out.

    Raises:
        NotAllowedError: the worker's operator has not allowed it.
    """
    allowed = bound()
    if allowed is None:
        return
    pointer = origin.repository_origin.code_pointer
    directory = working_directory_of(origin)
    # By their exact kinds: others may load what they like.
    if type(pointer) is FileCodePointer:
        allowed.check_file(pointer.python_file, directory)
    elif type(pointer) in _MODULE_POINTERS:
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
