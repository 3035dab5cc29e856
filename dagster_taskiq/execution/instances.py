"""The Dagster instance of a message, kept open between tasks, and the runs in it."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from dagster import DagsterInstance
from dagster._core.storage.dagster_run import DagsterRun
from dagster._grpc.types import ExecuteRunArgs, ExecuteStepArgs, ResumeRunArgs
from dagster._serdes import deserialize_value, serialize_value

from dagster_taskiq.dagster_internals.postgres_engines import is_full, wait_for_storage
from dagster_taskiq.errors import NoInstanceError, RunNotFoundError
from dagster_taskiq.execution.allowed_code import current_policy
from dagster_taskiq.execution.task_context import current_context
from dagster_taskiq.settings.embedded import EMBEDDED_FILE

#: In place of a serialized reference: the instance of ``$DAGSTER_HOME``.
_OWN = ""

#: Parts of the errors that occur while another process, such as the web server, makes Dagster's
#: tables.
_WHILE_TABLES_ARE_MADE = (
    *("already exists", "locked", "no such table", "alembic_version"),
    "expected to match one row",
)


def instance_of(args: ExecuteStepArgs | ExecuteRunArgs | ResumeRunArgs) -> DagsterInstance:
    """Return the Dagster instance in which a message's run is.

    That is the one which the message names, or that of ``$DAGSTER_HOME`` if only some code is
    allowed: the parts of an instance are classes of any module, with any config.

    Raises:
        NoInstanceError: the message names none.
    """
    if current_policy() is not None:
        return instance_from(_OWN)
    if args.instance_ref is None:
        raise NoInstanceError("The message names no Dagster instance.")
    return instance_from(serialize_value(args.instance_ref))


def find_run(instance: DagsterInstance, run_id: str) -> DagsterRun:
    """Return a run of an instance.

    Raises:
        RunNotFoundError: it is not there; the text says what to look at.
    """
    run = instance.get_run_by_id(run_id)
    if run is None:
        which = "" if current_policy() is None else " (with --allow, that of its own $DAGSTER_HOME)"
        raise RunNotFoundError(
            f"Run {run_id} is not in the worker's Dagster instance{which}. Worker and run must use "
            "the same run storage; see `storage` in dagster.yaml."
        )
    return run


def inject_env_vars(instance: DagsterInstance, run: DagsterRun) -> None:
    """Set the environment variables that an instance has for the code location of a run."""
    origin = run.remote_job_origin
    instance.inject_env_vars(origin.location_name if origin else None)


@lru_cache(maxsize=8)
def instance_from(instance_ref: str) -> DagsterInstance:
    """Return the Dagster instance of a serialized ``InstanceRef``; kept open between tasks.

    Args:
        instance_ref: what ``serialize_value`` makes of it; empty for that of ``$DAGSTER_HOME``.
    """
    with current_context().loading(instance_ref), _new_home_locked(instance_ref):
        for _ in range(5):
            try:
                return _open_when_not_full(instance_ref)
            except Exception as error:
                if not any(words in str(error) for words in _WHILE_TABLES_ARE_MADE):
                    raise
                time.sleep(0.2)
        return _open_when_not_full(instance_ref)


@contextmanager
def _new_home_locked(instance_ref: str) -> Iterator[None]:
    """Hold a lock while the instance of a home is opened that no worker has opened before.

    The process that opens an instance first makes Dagster's tables. Of several that do so at the
    same moment all but one fail, and may leave tables behind that cannot be used.
    """
    with ExitStack() as stack:
        file = None
        with suppress(OSError):  # a directory that cannot be written to, or has no locks
            file = _lock_of_new_home(instance_ref)
        if file is not None:
            stack.enter_context(file)
        yield
        if file is not None:
            file.write("Dagster's tables are there.\n")


def _lock_of_new_home(instance_ref: str) -> IO[str] | None:
    """Return a file whose lock this process holds until it closes it; ``None`` for an old home."""
    # Imported here: only workers call this, and not every system that sends to them has it.
    import fcntl  # noqa: PLC0415

    home = _home_of(instance_ref)
    lock = Path(home) / EMBEDDED_FILE.with_name("instance.lock")
    # The home of a run's instance need not exist here, if Dagster's storage is on a server.
    if not home or not Path(home).is_dir() or (lock.exists() and lock.read_text()):
        return None
    lock.parent.mkdir(exist_ok=True)
    file = lock.open("a")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _home_of(instance_ref: str) -> str:
    if instance_ref == _OWN:
        return os.environ["DAGSTER_HOME"]
    ref: Any = deserialize_value(instance_ref)
    return str(ref.local_artifact_storage_data.config_dict.get("base_dir", ""))


def _open_when_not_full(instance_ref: str) -> DagsterInstance:
    """Open an instance; wait for a database server that has no connection left."""
    return wait_for_storage(lambda: _open_instance(instance_ref), is_full)


def _open_instance(instance_ref: str) -> DagsterInstance:
    if instance_ref == _OWN:
        return DagsterInstance.get()
    return DagsterInstance.from_ref(deserialize_value(instance_ref))  # type: ignore[arg-type]
