"""Python environments beside that of the tests, and jobs that belong into them."""

import sys
from pathlib import Path

from dagster._core.origin import JobPythonOrigin


def given(origin: JobPythonOrigin, executable: str, explicit: bool = True) -> JobPythonOrigin:
    """Return a job's origin as Dagster makes it where its code location runs in an interpreter.

    Args:
        origin: the job's origin as it is.
        executable: the interpreter.
        explicit: whether somebody has asked for it (``executable_path`` in ``workspace.yaml``).
    """
    entry_point = [executable, "-m", "dagster"] if explicit else ["dagster"]
    repository = origin.repository_origin._replace(
        executable_path=executable, entry_point=entry_point
    )
    return origin._replace(repository_origin=repository)


def venv(directory: Path) -> str:
    """Make what Python knows a virtual environment by; return the path of its interpreter."""
    (directory / "bin").mkdir(parents=True)
    (directory / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\n")
    executable = directory / "bin" / "python"
    executable.symlink_to(sys.executable)
    return str(executable)
