"""Reading the events of one run from Dagster's event log as they are written."""

import os
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from dagster import DagsterEvent
from dagster._core.event_api import EventLogCursor
from dagster._core.events import DagsterEventType
from dagster._core.instance import DagsterInstance
from dagster._core.storage.event_log import (
    EventLogRecord,
    EventLogStorage,
)

from dagster_taskiq.dagster_internals.event_rows import rows_of
from dagster_taskiq.execution.late_rows import Gaps

#: How many events are read from the event log at a time.
EVENTS_AT_ONCE = 1000
#: The types of all events of Dagster's. The log also has the messages of ``context.log``, which
#: have no type and are not read.
ALL_TYPES = frozenset(DagsterEventType)


@dataclass(frozen=True)
class Tailed:
    """An event of the run, as it is in the log."""

    #: The id of its row: a row that is written after this one was committed has a higher id.
    id: int
    event: DagsterEvent
    timestamp: float


class EventTail:
    """Reads each event of a run once, in the order of the log.

    If rows may become visible late, each read also looks which ids are missing below those it has
    read, and returns the rows of the run that have become visible since. A process commits its rows
    one after the other: a reader that has read the end of a step has read all that its process
    wrote before.
    """

    def __init__(self, instance: DagsterInstance, run_id: str) -> None:
        """Read nothing yet.

        Args:
            instance: where the run is.
            run_id: the run.

        Raises:
            ValueError: as :func:`overlap_of`.
        """
        self._instance = instance
        self._run_id = run_id
        self._cursor: str | None = None
        #: The highest id that has been read.
        self._position = 0
        #: The ids that have been read: as far back as the overlap goes, or all of them if rows may
        #: become visible late.
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
        """The ids of rows, of any run, that may still become visible."""
        return self._gaps.missing if self._gaps else frozenset()

    def read(
        self, types: AbstractSet[DagsterEventType] = ALL_TYPES, steps: Collection[str] = ()
    ) -> list[Tailed]:
        """Return the events of some types that have become visible since the last read.

        Args:
            types: the types of events.
            steps: keys of steps of which all events are returned that have not been yet, however
                low their ids are.
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
        """Read the rows beyond the cursor."""
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
        """Return the ids of unread rows of this run that the cursor has passed.

        It is called after the read beyond the cursor, so that no row is missed in between.

        Args:
            gaps: the ids that are missing.
            wanted: the types of events.
            steps: keys of steps of which all unread rows are returned.
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

    It is the same as in Dagster's step delegating executor.

    Raises:
        ValueError: the environment variable is no number.
    """
    if "DAGSTER_EXECUTOR_POP_EVENTS_OFFSET" in os.environ:
        return int(os.environ["DAGSTER_EXECUTOR_POP_EVENTS_OFFSET"])
    return storage.default_run_scoped_event_tailer_offset()


def ends_step(event: DagsterEvent) -> bool:
    """Return whether an event ends one attempt at a step."""
    return event.is_step_success or event.is_step_failure or event.is_step_up_for_retry
