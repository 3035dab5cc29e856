"""Whether the code of a job requires another Python environment than that of this process.

Every code location names the interpreter that it runs in, and most often that is no requirement: a
code server in one container has ``/usr/local/bin/python`` and its workers, in another,
``/opt/venv/bin/python``. It is one if ``executable_path`` is set in ``workspace.yaml``, or if the
code server was started with ``--use-python-environment-entry-point``. Dagster then starts a run by
that interpreter (``[executable_path, "-m", "dagster"]`` is the entry point) and not by the first
``dagster`` on the path.

A path means little on another machine. If there is no such file, the environment is taken to be the
one that the worker's operator has chosen. If there is one, in an environment that this process is
neither in nor built on, the job would run with the wrong packages, and is refused.
"""

import sys
from pathlib import Path

from dagster._core.origin import JobPythonOrigin, get_python_environment_entry_point

from dagster_taskiq.errors import CodeLoadError

#: What makes a directory a virtual environment (PEP 405).
_VENV_FILE = "pyvenv.cfg"


def check_environment(origin: JobPythonOrigin) -> None:
    """Check that a job may be executed in the Python environment of this process.

    Raises:
        CodeLoadError: its code location requires another one, which is on this machine; the text
            says which worker to start.
    """
    path = origin.executable_path
    entry_point = origin.repository_origin.entry_point
    if entry_point is None or list(entry_point) != list(get_python_environment_entry_point(path)):
        return
    if path == sys.executable:
        return
    wanted = environment_of(path)
    if wanted is None or wanted in (_here(sys.prefix), _here(sys.base_prefix)):
        return
    raise CodeLoadError(
        f"its code location has a Python environment of its own (executable_path: {path}), and "
        f"this worker is in another one ({sys.prefix}). One worker serves one environment: start "
        f"one with `{path} -m dagster_taskiq worker start -q QUEUE`, and have the tags "
        "`dagster-taskiq/queue` of the job and of its steps name a queue that only such workers "
        "serve."
    )


def environment_of(executable: str) -> Path | None:
    """Return the directory of an interpreter's packages, which is its ``sys.prefix``.

    Args:
        executable: its path; nothing is started.

    Returns:
        The directory of its virtual environment, else of its installation, without symbolic links;
        ``None`` if there is no such file.
    """
    path = Path(executable)
    if not path.is_file():
        return None
    # Python looks next to the path by which it was started, and does not follow links.
    for directory in (path.parent, path.parent.parent):
        if (directory / _VENV_FILE).is_file():
            return directory.resolve()
    return path.resolve().parent.parent


def _here(prefix: str) -> Path:
    return Path(prefix).resolve()
