"""Which rows of Dagster's event log are visible, by id, in the table that all runs share."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from dagster._core.storage.event_log import EventLogStorage, SqlEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable

from dagster_taskiq.dagster_internals.part import DagsterPart
from dagster_taskiq.dagster_internals.storage_retries import repeated

logger = logging.getLogger("dagster_taskiq.event_log")

_COLUMNS = ("id", "run_id", "dagster_event_type", "step_key")


def _check() -> str:
    missing = [name for name in _COLUMNS if name not in SqlEventLogStorageTable.c]
    if missing:
        return f"there is no column {missing[0]}"
    return "" if hasattr(SqlEventLogStorage, "run_connection") else "there is no run_connection"


PART = DagsterPart(
    name="event log rows",
    touches="SqlEventLogStorage.run_connection and SqlEventLogStorageTable (read)",
    why=(
        "A database server numbers a row when it is inserted, and shows it to others when it is "
        "committed, which may be after rows with higher ids. Dagster's API reads the rows of one "
        "run beyond a cursor, and passes over such a row. Between the rows of one run there are "
        "gaps anyway; in the table of all runs, an id that is missing is a row that may still come."
    ),
    otherwise=(
        "Rows that become visible late are found only within Dagster's own overlap "
        "(DAGSTER_EXECUTOR_POP_EVENTS_OFFSET)."
    ),
    check=_check,
)


@dataclass(frozen=True)
class Row:
    """A row that is visible."""

    id: int
    #: The type of the event, if it is one of the run that was asked for; else ``None``.
    type: str | None


class EventRows:
    """The ids and types of rows, which is what can be had without reading the events."""

    def __init__(self, storage: SqlEventLogStorage) -> None:
        self._storage = storage

    def find(
        self, run_id: str, *, after: int, before: int | None, most: int, ids: Collection[int]
    ) -> list[Row]:
        """Return rows of all runs that are visible at this moment, by id.

        Args:
            run_id: the run for whose rows the type is wanted.
            after: the id that the rows are above.
            before: the id that the rows are below, if there is one.
            most: how many of these are returned; of more, those with the highest ids.
            ids: rows that are wanted as well.
        """
        table = SqlEventLogStorageTable.c
        type_ = sa.case((table.run_id == run_id, table.dagster_event_type), else_=None)
        query = sa.select(table.id, type_)
        newest = query.where(table.id > after).order_by(table.id.desc()).limit(most)
        if before is not None:
            newest = newest.where(table.id < before)
        queries = [newest] if before is None or before - after > 1 else []
        if ids:
            queries.append(query.where(table.id.in_(ids)))
        found = {row.id: row for row in self._read(run_id, *queries)}
        return [found[row_id] for row_id in sorted(found)]

    def of_steps(self, run_id: str, step_keys: Collection[str]) -> list[Row]:
        """Return all rows of some steps of a run that are visible at this moment, by id."""
        table = SqlEventLogStorageTable.c
        query = (
            sa.select(table.id, table.dagster_event_type)
            .where(table.run_id == run_id, table.step_key.in_(step_keys))
            .order_by(table.id)
        )
        return self._read(run_id, query)

    def _read(self, run_id: str, *queries: sa.Select[Any]) -> list[Row]:
        def read() -> list[Row]:
            with self._storage.run_connection(run_id) as connection:
                rows = [row for query in queries for row in connection.execute(query)]
            return [Row(row[0], row[1]) for row in rows]

        return repeated(read)


def rows_of(storage: EventLogStorage) -> EventRows | None:
    """Return the rows of a storage in which they may become visible out of order, else ``None``.

    That is one with a single table for all runs, on another database than SQLite, which has one
    writer at a time: its rows become visible in the order of their ids.
    """
    if not isinstance(storage, SqlEventLogStorage):
        _warn_once(type(storage).__name__, "is none of Dagster's own kind")
        return None
    if storage.is_run_sharded:
        return None
    problem = PART.find_problem()
    if problem:
        _warn_once(type(storage).__name__, f"is not as expected: {problem}")
        return None
    with storage.run_connection(None) as connection:
        in_order = connection.dialect.name == "sqlite"
    return None if in_order else EventRows(storage)


@cache
def _warn_once(storage: str, why: str) -> None:
    logger.warning("The event log's storage (%s) %s. %s", storage, why, PART.otherwise)
