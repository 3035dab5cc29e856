"""Where the code of a run is, which a worker must know before it loads the job."""

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
    """Return the directory from which a job's code location imports; empty if it names none."""
    pointer = origin.repository_origin.code_pointer
    # Each kind of Dagster's pointers has one; a project's own kind may have none.
    return str(getattr(pointer, "working_directory", None) or "")


def source_of(origin: JobPythonOrigin) -> str:
    """Return the file of a job's code location; its module if that is not loaded here."""
    pointer = origin.repository_origin.code_pointer
    module = getattr(pointer, "module", None) or ""
    file = getattr(sys.modules.get(module), "__file__", None)
    return str(getattr(pointer, "python_file", None) or file or module)


def lines_of(origin: JobPythonOrigin, text: str) -> tuple[tuple[str, int], ...]:
    """Return each line of a code location's own source that holds a text: its file, its number.

    The file of the code location is searched, or the package of its module. Nothing is imported:
    the process that launches a run need not be able to.
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
