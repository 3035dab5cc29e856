"""The Dagster instance of a message, kept open between tasks."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from dagster import DagsterInstance
from dagster._grpc.types import ExecuteRunArgs, ExecuteStepArgs, ResumeRunArgs
from dagster._serdes import deserialize_value, serialize_value

from dagster_taskiq.errors import (
    TaskFailedError,
)
from dagster_taskiq.execution.allowed_code import current_policy
from dagster_taskiq.execution.task_context import current_context
from dagster_taskiq.settings.embedded import EMBEDDED_FILE

#: In place of a serialized reference: the instance of ``$DAGSTER_HOME``.
_OWN = ""


#: What is said of Dagster's own tables while another process, such as the web server, makes them.
_SAID_BY_TABLES_IN_THE_MAKING = (
    *("already exists", "locked", "no such table", "alembic_version"),
    "expected to match one row",
)


def instance_of(args: ExecuteStepArgs | ExecuteRunArgs | ResumeRunArgs) -> DagsterInstance:
    """Return the Dagster instance in which a message's run is.

    That is the one which the message names, or this process's own where code is bounded: the parts
    of an instance are classes of any module, with any config.

    Raises:
        TaskFailedError: the message names none.
    """
    if current_policy() is not None:
        return instance_from(_OWN)
    if args.instance_ref is None:
        raise TaskFailedError("The message names no Dagster instance.")
    return instance_from(serialize_value(args.instance_ref))


@lru_cache(maxsize=8)
def instance_from(instance_ref: str) -> DagsterInstance:
    """Return the Dagster instance of a serialized ``InstanceRef``; kept open between tasks.

    Args:
        instance_ref: what ``serialize_value`` makes of it; empty for that of ``$DAGSTER_HOME``.
    """
    with current_context().loading(instance_ref), _alone_with_a_new_home(instance_ref):
        for _ in range(5):
            try:
                return _open_instance(instance_ref)
            except Exception as error:
                if not any(words in str(error) for words in _SAID_BY_TABLES_IN_THE_MAKING):
                    raise
                time.sleep(0.2)
        return _open_instance(instance_ref)


@contextmanager
def _alone_with_a_new_home(instance_ref: str) -> Iterator[None]:
    """Let one process of ours at a time open the instance of a home in which nobody has been.

    Dagster's tables are made by whoever opens it first. Of several who do so at the same moment all
    but one fail, and what they leave behind may be of no use for ever.
    """
    with ExitStack() as stack:
        file = None
        with suppress(OSError):  # not our directory to write to, or one without locks
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
    # The home of a run's instance need not be there, where Dagster's storage is on a server.
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


def _open_instance(instance_ref: str) -> DagsterInstance:
    if instance_ref == _OWN:
        return DagsterInstance.get()
    return DagsterInstance.from_ref(deserialize_value(instance_ref))  # type: ignore[arg-type]
