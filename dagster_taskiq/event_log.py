"""Dagster's event log, as the loop of a run reads it."""

import os
import socket
import sqlite3
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from dagster import DagsterEvent
from dagster._core.event_api import EventLogCursor
from dagster._core.events import DagsterEventType, EngineEventData
from dagster._core.instance import DagsterInstance
from dagster._core.storage.event_log import SqliteEventLogStorage

from dagster_taskiq.performing import current_message

#: How many events are read from the event log at a time.
EVENTS_AT_ONCE = 1000
#: The types of all events of Dagster's: the log also has what ops print by ``context.log``.
ALL_TYPES = frozenset(DagsterEventType)
#: The types of the events with which a step's task begins, and a run's.
_BEGINNINGS = frozenset({DagsterEventType.STEP_WORKER_STARTED, DagsterEventType.ENGINE_EVENT})


@dataclass(frozen=True)
class Tailed:
    """An event of the run, as it stands in the log."""

    event: DagsterEvent
    timestamp: float


class EventTail:
    """Reads each event of a run once, in the order of the log."""

    def __init__(self, instance: DagsterInstance, run_id: str) -> None:
        self._instance = instance
        self._run_id = run_id
        self._cursor: str | None = None
        self._seen: set[int] = set()
        # Some databases hand out ids before the rows are visible; their storage says how far
        # back a reader must look for stragglers.
        self._overlap = instance.event_log_storage.default_run_scoped_event_tailer_offset()

    def read(self, types: AbstractSet[DagsterEventType] = ALL_TYPES) -> Iterator[Tailed]:
        """Yield what has come of some types since the last read."""
        wanted = set(types)
        more = True
        while more:
            batch = self._instance.get_records_for_run(
                self._run_id,
                self._cursor,
                of_type=wanted,
                limit=EVENTS_AT_ONCE,
            )
            fresh = [record for record in batch.records if record.storage_id not in self._seen]
            more = len(batch.records) >= EVENTS_AT_ONCE and bool(fresh)
            self._move(batch.cursor, [record.storage_id for record in batch.records])
            for record in fresh:
                entry = record.event_log_entry
                if entry.dagster_event is not None:
                    yield Tailed(entry.dagster_event, entry.timestamp)

    def _move(self, cursor: str, storage_ids: list[int]) -> None:
        if not self._overlap:
            self._cursor = cursor
            return
        self._seen.update(storage_ids)
        if not storage_ids:
            return
        back = max(0, max(storage_ids) - self._overlap)
        at = EventLogCursor.parse(self._cursor).storage_id() if self._cursor else 0
        if len(storage_ids) >= EVENTS_AT_ONCE:
            # The overlap alone fills a batch: move by at least half of it, or nothing moves.
            back = max(back, sorted(storage_ids)[len(storage_ids) // 2])
        self._cursor = EventLogCursor.from_storage_id(max(at, back)).to_string()
        oldest = max(at, back)
        self._seen = {storage_id for storage_id in self._seen if storage_id > oldest}


def beginning(worker: str) -> dict[str, str]:
    """Return what the event with which a task begins in this process says of it, as metadata.

    Args:
        worker: the name of the worker to which this process belongs.
    """
    message = current_message()
    return {
        "worker": worker,
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "task_id": message.task_id if message else "",
    }


def begun_task(event: DagsterEvent) -> str:
    """Return the id of the task of which an event says that it has begun; empty for others."""
    data = event.event_specific_data
    if event.event_type not in _BEGINNINGS or not isinstance(data, EngineEventData):
        return ""
    # An event of the launcher names the task that it has sent, and no process.
    task_id = data.metadata.get("task_id") if "pid" in data.metadata else None
    return str(task_id.value) if task_id is not None else ""


def begun_tasks(instance: DagsterInstance, run_id: str) -> Iterator[str]:
    """Yield the ids of the tasks of which the log of a run says that they have begun."""
    for tailed in EventTail(instance, run_id).read(_BEGINNINGS):
        yield begun_task(tailed.event)


def ends_step(event: DagsterEvent) -> bool:
    """Return whether an event ends one attempt at a step."""
    return event.is_step_success or event.is_step_failure or event.is_step_up_for_retry


def spare_setup(instance: DagsterInstance, run_id: str) -> None:
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
