"""Dagster's event log, as the loop of a run reads it."""

import os
import socket
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from dagster import DagsterEvent
from dagster._core.event_api import EventLogCursor
from dagster._core.events import DagsterEventType, EngineEventData
from dagster._core.instance import DagsterInstance
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.storage.event_log import (
    EventLogRecord,
    EventLogStorage,
    SqliteEventLogStorage,
)

from dagster_taskiq.dagster_internals.event_rows import EventRows, Row, rows_of
from dagster_taskiq.performing import current_message

#: How many events are read from the event log at a time.
EVENTS_AT_ONCE = 1000
#: The types of all events of Dagster's: the log also has what ops print by ``context.log``.
ALL_TYPES = frozenset(DagsterEventType)
#: The types of the events with which a step's task begins, and a run's.
_BEGINNINGS = frozenset({DagsterEventType.STEP_WORKER_STARTED, DagsterEventType.ENGINE_EVENT})
#: How long an id that is missing in the table of all events is looked at again, in seconds. A
#: transaction that was rolled back, or a run that was deleted, leaves ids that never come.
GAP_SECONDS = 60.0
#: How many missing ids are looked at again; of more, the highest.
MOST_GAPS = 1000
#: How far back ids that are missing are looked for, in rows. What is missing further back was
#: numbered so much earlier that it has been committed, or never will be.
ROWS_LOOKED_AT = 10_000
#: How long before an end is written on behalf of a step or run the log is looked at again, in
#: seconds: what did happen may be on its way into the log.
LATE_SECONDS = 5.0
#: The time between two of these looks, in seconds.
LATE_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Tailed:
    """An event of the run, as it stands in the log."""

    #: Where it stands: what is written after it was committed has a higher id.
    id: int
    event: DagsterEvent
    timestamp: float


class Gaps:
    """The ids that are missing below the highest visible one: their rows may still be committed."""

    def __init__(self, rows: EventRows, run_id: str) -> None:
        self.rows = rows
        self._run_id = run_id
        #: What is up to here has been looked at.
        self._position = 0
        #: When each missing id was missed first, in ``time.monotonic()``.
        self._missing: dict[int, float] = {}

    @property
    def missing(self) -> frozenset[int]:
        """The ids that are missing, ``MOST_GAPS`` at most, and each for ``GAP_SECONDS`` at most."""
        return frozenset(self._missing)

    def look(self, up_to: int | None = None) -> list[Row]:
        """Look at what has not been looked at yet, and once more for what was missing.

        Args:
            up_to: the id of a visible row, where to stop; the highest, where none is given.

        Returns:
            The rows that have been found, by id, without that one.
        """
        before = self._position
        found = self._rows_between(before, up_to)
        visible = {row.id for row in found}
        new = [row.id for row in found if row.id > before]
        # What is below the lowest was committed long ago where not all have been returned, or where
        # this is the first look.
        all_new = bool(before) and len(new) < ROWS_LOOKED_AT
        if up_to is not None and up_to > before:
            new.append(up_to)
        now = time.monotonic()
        if new:
            ids = _missing_above(before if all_new else new[0], new)
            self._missing.update(dict.fromkeys(ids, now))
            self._position = new[-1]
        kept = sorted(self._missing.keys() - visible)[-MOST_GAPS:]
        since = now - GAP_SECONDS
        self._missing = {each: self._missing[each] for each in kept if self._missing[each] > since}
        return found

    def _rows_between(self, after: int, up_to: int | None) -> list[Row]:
        return self.rows.find(
            self._run_id, after=after, before=up_to, most=ROWS_LOOKED_AT, ids=self._missing
        )


def _missing_above(low: int, ids: Sequence[int]) -> list[int]:
    """Return which ids are missing between ``low`` and the last of ``ids``, the highest first.

    Args:
        low: an id that counts as there.
        ids: in ascending order, from ``low`` on or above it.
    """
    missing: list[int] = []
    for higher, lower in pairwise([*reversed(ids), low]):
        left = MOST_GAPS - len(missing)
        missing.extend(range(higher - 1, max(lower, higher - 1 - left), -1))
    return missing


class EventTail:
    """Reads each event of a run once, in the order of the log.

    Where rows may become visible late, each read looks afterwards which ids are missing below those
    it has read, and reads with those of the run that have come meanwhile. A process commits its
    rows one after the other: whoever has read a step's end has read, by then, all that its process
    wrote before.
    """

    def __init__(self, instance: DagsterInstance, run_id: str) -> None:
        self._instance = instance
        self._run_id = run_id
        self._cursor: str | None = None
        #: The highest id that has been read.
        self._position = 0
        #: What has been read: as far back as the overlap goes, or all, where rows may come late.
        self._seen: set[int] = set()
        self._overlap = overlap_of(instance.event_log_storage)
        rows = rows_of(instance.event_log_storage)
        self._gaps = Gaps(rows, run_id) if rows else None

    @property
    def may_miss_rows(self) -> bool:
        """Whether rows may become visible after others that have higher ids."""
        return self._gaps is not None

    @property
    def missing(self) -> frozenset[int]:
        """The ids of rows, of whichever run, that may still become visible."""
        return self._gaps.missing if self._gaps else frozenset()

    def read(
        self, types: AbstractSet[DagsterEventType] = ALL_TYPES, steps: Collection[str] = ()
    ) -> list[Tailed]:
        """Return what has come of some types since the last read.

        Args:
            types: the types of events that are wanted.
            steps: keys of steps of which everything is wanted that has not been returned yet,
                however far back it is.
        """
        wanted = set(types)
        records = self._read_new(wanted)
        if self._gaps and (records or steps or self._gaps.missing):
            records += self._read_rows(self._late(self._gaps, wanted, steps), wanted)
            records.sort(key=lambda record: record.storage_id)
        entries = [(record.storage_id, record.event_log_entry) for record in records]
        return [
            Tailed(storage_id, entry.dagster_event, entry.timestamp)
            for storage_id, entry in entries
            if entry.dagster_event is not None
        ]

    def _read_new(self, wanted: set[DagsterEventType]) -> list[EventLogRecord]:
        """Read what is beyond the cursor."""
        records: list[EventLogRecord] = []
        more = True
        while more:
            batch = self._instance.get_records_for_run(
                self._run_id, self._cursor, of_type=wanted, limit=EVENTS_AT_ONCE
            )
            fresh = [record for record in batch.records if record.storage_id not in self._seen]
            more = len(batch.records) >= EVENTS_AT_ONCE and bool(fresh)
            self._move(batch.cursor, [record.storage_id for record in batch.records])
            records += fresh
        return records

    def _move(self, cursor: str, storage_ids: list[int]) -> None:
        if self._overlap or self._gaps:
            self._seen.update(storage_ids)
        if storage_ids:
            self._position = max(self._position, *storage_ids)
        if not self._overlap:
            self._cursor = cursor
            return
        if not storage_ids:
            return
        back = max(0, max(storage_ids) - self._overlap)
        at = EventLogCursor.parse(self._cursor).storage_id() if self._cursor else 0
        if len(storage_ids) >= EVENTS_AT_ONCE:
            # The overlap alone fills a batch: move by at least half of it, or nothing moves.
            back = max(back, sorted(storage_ids)[len(storage_ids) // 2])
        oldest = max(at, back)
        self._cursor = EventLogCursor.from_storage_id(oldest).to_string()
        if not self._gaps:
            self._seen = {storage_id for storage_id in self._seen if storage_id > oldest}

    def _late(
        self, gaps: Gaps, wanted: AbstractSet[DagsterEventType], steps: Collection[str]
    ) -> list[int]:
        """Return the ids of this run's rows that the cursor has passed, or that are of ``steps``.

        This comes after the read beyond the cursor, so that nothing becomes visible in between.
        """
        rows = [
            row for row in gaps.look(None if steps else self._position) if row.id <= self._position
        ]
        if steps:
            rows += gaps.rows.of_steps(self._run_id, steps)
        names = {each.value for each in wanted}
        return sorted({row.id for row in rows if row.type in names} - self._seen)

    def _read_rows(self, ids: Sequence[int], wanted: set[DagsterEventType]) -> list[EventLogRecord]:
        """Read rows of this run, whose ids are in ascending order."""
        found: list[EventLogRecord] = []
        while ids:
            batch = self._instance.get_records_for_run(
                self._run_id,
                EventLogCursor.from_storage_id(ids[0] - 1).to_string(),
                of_type=wanted,
                limit=min(EVENTS_AT_ONCE, ids[-1] - ids[0] + 1),
            )
            if not batch.records:  # they have been deleted
                break
            found += [record for record in batch.records if record.storage_id in set(ids)]
            ids = [each for each in ids if each > batch.records[-1].storage_id]
        self._seen.update(record.storage_id for record in found)
        return found


def overlap_of(storage: EventLogStorage) -> int:
    """Return how far back, in ids, a reader of one run's events looks again each time.

    As the step delegating executor of Dagster has it.

    Raises:
        ValueError: what the environment says is no number.
    """
    if "DAGSTER_EXECUTOR_POP_EVENTS_OFFSET" in os.environ:
        return int(os.environ["DAGSTER_EXECUTOR_POP_EVENTS_OFFSET"])
    return storage.default_run_scoped_event_tailer_offset()


def wait_for_late_rows(instance: DagsterInstance, run: DagsterRun, why: str) -> None:
    """Wait until what a run's process was writing to the log can be read.

    The process is not there any more, but the database goes on with its last statement. Where rows
    may become visible late, an event is written first: what the process has written has a lower id,
    and is either visible or missing. Waits ``LATE_SECONDS`` at most, and not at all where rows
    become visible in the order of their ids.

    Args:
        instance: where the run is.
        run: whose process has ended.
        why: what happened, which that event says.
    """
    rows = rows_of(instance.event_log_storage)
    if rows is None:
        return
    instance.report_engine_event(why, run)
    gaps = Gaps(rows, run.run_id)
    gaps.look()
    awaited = gaps.missing
    deadline = time.monotonic() + LATE_SECONDS
    while awaited & gaps.missing and time.monotonic() < deadline:
        time.sleep(LATE_LOOK_SECONDS)
        gaps.look()


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
