"""Writing to the SQLite file of a run's events without setting it up in each process."""

import inspect
import sqlite3
from contextlib import closing
from pathlib import Path

from dagster._core.instance import DagsterInstance
from dagster._core.storage.event_log import SqliteEventLogStorage

from dagster_taskiq.dagster_internals.part import DagsterPart

#: The attribute in which a storage keeps the runs whose files it has set up.
_ATTRIBUTE = "_initialized_dbs"


def _check() -> str:
    constructor = inspect.unwrap(SqliteEventLogStorage.__init__)
    if _ATTRIBUTE not in constructor.__code__.co_names:
        return f"the constructor sets no {_ATTRIBUTE}"
    return ""


PART = DagsterPart(
    name="event log set-up",
    touches=f"SqliteEventLogStorage.{_ATTRIBUTE} (added to)",
    why=(
        "Each process checks the schema of a run's file when it first writes to it, which takes "
        "longer than a small step. A run that is executed here has its first event already, and "
        "the process that wrote it has set up the file."
    ),
    otherwise="Each process sets up the file.",
    check=_check,
)


def mark_initialized(instance: DagsterInstance, run_id: str) -> None:
    """Let this process write to the file of a run's events without setting it up first.

    Nothing is done if the file has no event yet, or if Dagster is not as expected.
    """
    storage = instance.event_log_storage
    if isinstance(storage, SqliteEventLogStorage):
        ready = getattr(storage, _ATTRIBUTE, None)
        if isinstance(ready, set) and _has_events(Path(storage.path_for_shard(run_id))):
            ready.add(run_id)


def _has_events(file: Path) -> bool:
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT 1 FROM event_logs LIMIT 1").fetchone() is not None
    except sqlite3.Error:  # it is not there, or another process is setting it up at this moment
        return False
