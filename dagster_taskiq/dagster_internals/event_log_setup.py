"""The setting-up of the SQLite file of a run's events."""

import sqlite3
from contextlib import closing
from pathlib import Path

from dagster._core.instance import DagsterInstance
from dagster._core.storage.event_log import (
    SqliteEventLogStorage,
)


def mark_initialized(instance: DagsterInstance, run_id: str) -> None:
    """Let this process write to the SQLite file of a run's events without setting it up first.

    Each process checks the schema of each such file when it first writes to it, which takes
    longer than a small step. Of a run that is executed here, the file has been set up by whoever
    launched or started it, where its first event is there: it is written after that. Where
    Dagster's inside is not as expected, nothing is done.
    """
    storage = instance.event_log_storage
    if isinstance(storage, SqliteEventLogStorage):
        ready = getattr(storage, "_initialized_dbs", None)
        if isinstance(ready, set) and _has_events(Path(storage.path_for_shard(run_id))):
            ready.add(run_id)


def _has_events(file: Path) -> bool:
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT 1 FROM event_logs LIMIT 1").fetchone() is not None
    except sqlite3.Error:  # it is not there, or somebody is setting it up at this moment
        return False
