"""Where the code of a run is: what a worker must have at hand before it loads a job."""

import sys
from functools import lru_cache
from pathlib import Path

from dagster._core.code_pointer import (
    AutoloadDefsModuleCodePointer,
    ModuleCodePointer,
    PackageCodePointer,
)
from dagster._core.origin import JobPythonOrigin

#: Pointers to a module that is imported.
MODULE_POINTERS = (ModuleCodePointer, PackageCodePointer, AutoloadDefsModuleCodePointer)


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
