"""Rows of the event log that become visible after others with higher ids."""

import time
from collections.abc import Sequence
from itertools import pairwise

from dagster._core.instance import DagsterInstance
from dagster._core.storage.dagster_run import DagsterRun

from dagster_taskiq.dagster_internals.event_rows import EventRows, Row, rows_of

#: How long an id that is missing in the table of all events is looked up again, in seconds. A
#: transaction that was rolled back, or a run that was deleted, leaves ids that never come.
GAP_SECONDS = 60.0

#: How many missing ids are looked up again; of more, the highest.
MOST_GAPS = 1000

#: How far back missing ids are searched, in rows. What is missing further back was numbered so much
#: earlier that it has been committed, or never will be.
ROWS_LOOKED_AT = 10_000

#: How long the log is read again before an end is written on behalf of a step or run, in seconds:
#: its own end may not be visible yet.
LATE_SECONDS = 5.0

#: The time between two of these reads, in seconds.
LATE_LOOK_SECONDS = 0.2


class Gaps:
    """The ids that are missing below the highest visible one: their rows may still be committed."""

    def __init__(self, rows: EventRows, run_id: str) -> None:
        self.rows = rows
        self._run_id = run_id
        #: The rows up to this id have been read.
        self._position = 0
        #: When each missing id was found missing first, in ``time.monotonic()``.
        self._missing: dict[int, float] = {}

    @property
    def missing(self) -> frozenset[int]:
        """The ids that are missing, ``MOST_GAPS`` at most, and each for ``GAP_SECONDS`` at most."""
        return frozenset(self._missing)

    def look(self, up_to: int | None = None) -> list[Row]:
        """Read the rows that have not been read yet, and look up those that were missing.

        Args:
            up_to: the id of a visible row before which to stop; ``None`` for the highest.

        Returns:
            The rows that have been found, by id, without that one.
        """
        before = self._position
        found = self._rows_between(before, up_to)
        visible = {row.id for row in found}
        new = [row.id for row in found if row.id > before]
        # What is below the lowest was committed long ago if not all have been returned, or if this
        # is the first time.
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


def wait_for_late_rows(instance: DagsterInstance, run: DagsterRun, why: str) -> None:
    """Wait until what a run's process was writing to the log can be read.

    The process has ended, but the database goes on with its last statement. If rows may become
    visible late, an event is written first: what the process has written has a lower id, and is
    either visible or missing. Waits ``LATE_SECONDS`` at most, and not at all if rows become visible
    in the order of their ids.

    Args:
        instance: the instance of the run.
        run: the run, whose process has ended.
        why: what happened, as the text of that event.
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
