"""Whether the code of a job wants another Python environment than that of this process.

Every code location says which interpreter it runs in, and most often that is no wish: a code
server in one container has ``/usr/local/bin/python`` and its workers, in another,
``/opt/venv/bin/python``. It is one where somebody has set ``executable_path`` in
``workspace.yaml``, or has started the code server with ``--use-python-environment-entry-point``.
Dagster then starts a run by that interpreter (``[executable_path, "-m", "dagster"]`` is the entry
point) and not by whatever ``dagster`` is found.

A path says little on another machine. Where no such file is, the worker is taken to be what its
operator wants it to be. Where there is one, in an environment that this process is neither in nor
built on, the job would run with the wrong packages, and is refused.
"""

import sys
from pathlib import Path

from dagster._core.origin import JobPythonOrigin, get_python_environment_entry_point

from dagster_taskiq.errors import CodeLoadError

#: What makes a directory a virtual environment (PEP 405).
_VENV_FILE = "pyvenv.cfg"


def check_environment(origin: JobPythonOrigin) -> None:
    """Let through a job that may be executed in the Python environment of this process.

    Raises:
        CodeLoadError: its code location has been given another one, which is on this machine; the
            text says what to start.
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
    """Return the directory that an interpreter finds its packages in, as its ``sys.prefix`` has it.

    Args:
        executable: its path; nothing is started.

    Returns:
        The directory of its virtual environment, else of its installation, without symbolic links;
        ``None`` where there is no such file.
    """
    path = Path(executable)
    if not path.is_file():
        return None
    # Python looks beside the path that it was started by, whatever that is a link to.
    for directory in (path.parent, path.parent.parent):
        if (directory / _VENV_FILE).is_file():
            return directory.resolve()
    return path.resolve().parent.parent


def _here(prefix: str) -> Path:
    return Path(prefix).resolve()
