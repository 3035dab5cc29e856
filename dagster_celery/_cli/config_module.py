"""The module ``dagster_celery_config``, by which the config of ``-y`` reaches a worker's processes.

It may hold passwords. Its owner alone can read it, and it is removed when the worker ends; after a
worker that was killed, by the next one that starts.
"""

import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from dagster_celery._cli.config_file import get_worker_config
from dagster_celery._configuration import CONFIG_FILE_ENV, CONFIG_MODULE
from dagster_celery._warnings import warn_of_loss
from dagster_taskiq.deprecations import line_with
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.env import read_home

#: The file in the directory of a module which its worker keeps locked.
_LOCK = "in-use"
#: The names of such directories in the system's temporary directory begin with it.
_TEMPORARY_PREFIX = "dagster_celery_config-"
#: If no process locks a file of this age, in seconds, its worker has been killed. A younger one may
#: be about to be locked.
_NEW_SECONDS = 60.0
#: The file descriptors of this process's locks, which stay open as long as the process lives.
_locks: list[int] = []


def get_config_dir(config_yaml: str | None = None) -> str:
    """Write the module ``dagster_celery_config`` for a worker.

    Args:
        config_yaml: the file of ``-y``, see
            :func:`dagster_celery._cli.config_file.get_config_value_from_yaml`.

    Returns:
        The directory to import it from, a new one: under ``$DAGSTER_HOME``, or, if that is not set
        or takes no files, in the system's temporary directory.

    Raises:
        ConfigError: the file cannot be used; no file can be written; ``$DAGSTER_HOME`` is set and
            no directory.
        DagsterInvalidConfigError: the file has an unknown key, or a value of the wrong type.
    """
    config = get_worker_config(config_yaml)
    values = {
        "broker_url": config.get("broker"),
        "result_backend": config.get("backend"),
        "include": _found(config.get("include") or (), str(config_yaml)),
    }
    given = {name: value for name, value in values.items() if value}
    given.update(config.get("config_source") or {})
    text = "".join(f"{name} = {value!r}\n" for name, value in given.items())
    home = read_home()
    with suppress(OSError):  # read-only, full, or another user's
        if home is not None:
            parent = home / "dagster_celery" / "config"
            parent.mkdir(parents=True, exist_ok=True)
            return _write(text, parent)
    with suppress(OSError):
        return _write(text, Path(tempfile.gettempdir()), _TEMPORARY_PREFIX)
    raise ConfigError(
        "The config of -y cannot be handed to the worker's processes: neither $DAGSTER_HOME "
        f"({home or 'not set'}) nor a temporary directory ($TMPDIR, /tmp) takes files. Make one of "
        "them writable, or leave -y out and name the broker in CELERY_BROKER_URL."
    )


@contextmanager
def importable(config_yaml: str | None) -> Iterator[None]:
    """Let this process and its children import the module, as long as the context lasts.

    A module of that name in a directory of ``PYTHONPATH``, as a project may have one of its own,
    counts before it, as in dagster-celery.

    Args:
        config_yaml: as for :func:`get_config_dir`; nothing is done for ``None``.

    Raises:
        as :func:`get_config_dir`.
    """
    if config_yaml is None:
        yield
        return
    own = _module_of_the_project()
    if own is not None:
        warn_of_loss(
            f"{own} is on PYTHONPATH, so the worker is configured by it, and not by {config_yaml}. "
            "Leave one of them out.",
            config_yaml,
        )
        get_worker_config(config_yaml)
        yield
        return
    _search_current_directory()  # one that is there comes after the file's
    directory = get_config_dir(config_yaml)
    sys.path.insert(0, directory)
    before = os.environ.get(CONFIG_FILE_ENV)
    os.environ[CONFIG_FILE_ENV] = config_yaml
    try:
        yield
    finally:
        del os.environ[CONFIG_FILE_ENV]
        if before is not None:
            os.environ[CONFIG_FILE_ENV] = before
        sys.path.remove(directory)
        shutil.rmtree(directory, ignore_errors=True)


def _module_of_the_project() -> Path | None:
    """Return the file of a module of that name in a directory of ``PYTHONPATH``."""
    directories = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # An empty entry is the current directory.
    files = (Path(each) / f"{CONFIG_MODULE}.py" for each in directories if each)
    return next((file for file in files if file.is_file()), None)


def _search_current_directory() -> None:
    """Let modules be imported from the current directory, as a worker's app may be."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def _found(include: Sequence[str], config_yaml: str) -> list[str]:
    """Return the modules of ``include`` that can be imported; warn of those that are not there.

    dagster-celery's workers do not read the ``include`` of the file, so that a name that is out of
    date must not keep one from starting.
    """
    _search_current_directory()
    found = []
    for name in include:
        try:
            is_there = find_spec(name) is not None
        except ModuleNotFoundError:  # its package
            is_there = False
        except Exception:
            is_there = True  # its package cannot be imported: the worker reports that, and ends
        if is_there:
            found.append(name)
        else:
            warn_of_loss(
                f'"include" names {name}, which cannot be found, and is left out. Correct it, or '
                "add its directory to PYTHONPATH.",
                config_yaml,
                line_with(config_yaml, name),
            )
    return found


def _write(text: str, parent: Path, prefix: str = "") -> str:
    """Write the module into a new directory, and return that.

    Args:
        text: the module's source.
        parent: the directory is made in it.
        prefix: the directory's name begins with it.

    Raises:
        OSError: it cannot be written there.
    """
    _remove_of_dead_workers(parent, prefix)
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    _lock(directory)
    file = os.open(directory / f"{CONFIG_MODULE}.py", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(file, "w", encoding="utf8") as output:
        output.write(text)
    return str(directory)


def _lock(directory: Path) -> None:
    """Mark a directory as in use until this process ends."""
    handle = os.open(directory / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    # On a file system without locks, the directory stays if this process is killed.
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _locks.append(handle)


def _remove_of_dead_workers(parent: Path, prefix: str) -> None:
    """Remove the directories of workers that were killed, since there may be passwords in them."""
    for lock in parent.glob(f"{prefix}*/{_LOCK}"):
        # An error means that its worker runs (the file is locked), or that another process has
        # removed it.
        with suppress(OSError), lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - lock.stat().st_mtime > _NEW_SECONDS:
                shutil.rmtree(lock.parent)
