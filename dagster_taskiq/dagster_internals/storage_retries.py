"""Storage calls that are made again if PostgreSQL ended the connection under them.

A server that is stopped or restarted ends each connection; a statement that is under way fails.
dagster-postgres tries to connect again, for some seconds, and repeats no statement. So a step whose
event was being written fails, and so does a run whose log was being read. Here such a call is made
again: a read, the status of a run, which is the same each time, and an event, unless it is in the
log after all. Other writes are not, such as claims of pool slots.
"""

import inspect
import sys
import time
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

import sqlalchemy as sa
import wrapt
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from sqlalchemy.exc import DBAPIError

from dagster_taskiq.dagster_internals.kept_engines import KEPT
from dagster_taskiq.dagster_internals.part import DagsterPart

T = TypeVar("T")

#: The storages of dagster-postgres, by the modules that they are in.
_STORAGES = {
    "dagster_postgres.event_log.event_log": "PostgresEventLogStorage",
    "dagster_postgres.run_storage.run_storage": "PostgresRunStorage",
    "dagster_postgres.schedule_storage.schedule_storage": "PostgresScheduleStorage",
}
#: The names of methods that read, as they begin; and of those that may be called again as well.
_READS = ("get_", "has_")
_REPEATABLE = frozenset({"handle_run_event"})
_WRITE = "store_event"
#: What is called to write an event, and its parameters.
_EXPECTED = {
    _WRITE: ["self", "event"],
    "prepare_insert_event": ["self", "event"],
    "store_asset_event": ["self", "event", "event_id"],
    "store_asset_event_tags": ["self", "events", "event_ids"],
    "store_asset_check_event": ["self", "event", "event_id"],
}

#: How often a call is made again. Before each, the connection waits for the server.
MOST_REPEATS = 3
#: For how long the row of an event is looked for, in seconds, and the pause between two looks. A
#: server that has not restarted, and only lost the connection, may still be committing it.
LATE_SECONDS = 5.0
PAUSE_SECONDS = 0.5


def _check() -> str:
    if "event" not in SqlEventLogStorageTable.c:
        return "there is no column event"
    for name, class_name in _STORAGES.items():
        if name in sys.modules and not hasattr(sys.modules[name], class_name):
            return f"there is no {class_name}"
    for name, expected in _EXPECTED.items():
        parameters = list(inspect.signature(getattr(SqlEventLogStorage, name)).parameters)
        if parameters != expected:
            return f"{name} has the parameters {parameters}"
    return ""


PART = DagsterPart(
    name="repeated storage calls",
    touches=(
        f"{_WRITE}, {', '.join(sorted(_REPEATABLE))} and methods that read, of "
        f"{', '.join(_STORAGES.values())} (wrapped)"
    ),
    why=(
        "Dagster repeats no statement that fails because the database server restarts, and fails "
        "the step or the run that needed it."
    ),
    otherwise="A step or run fails whose statement is under way when the server stops.",
    check=_check,
)


@cache
def install() -> None:
    """Have calls of dagster-postgres' storages repeated, while connections are kept.

    Where it has not been imported yet, that is done when it is.
    """
    PART.when_imported(_STORAGES, _wrap)


def _wrap(module: ModuleType) -> None:
    storage = getattr(module, _STORAGES[module.__name__])
    for name, _ in inspect.getmembers(storage, inspect.isfunction):
        if name == _WRITE:
            wrapt.wrap_function_wrapper(storage, name, _store_event)
        elif name.startswith(_READS) or name in _REPEATABLE:
            wrapt.wrap_function_wrapper(storage, name, _call)


def repeated(call: Callable[[], T]) -> T:
    """Make a call that may be made more than once, again if the server ends its connection."""
    for _ in range(MOST_REPEATS):
        try:
            return call()
        except DBAPIError as error:
            if not _was_cut(error):
                raise
    return call()


def _call(wrapped: Any, _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return repeated(lambda: wrapped(*args, **kwargs))


def _was_cut(error: DBAPIError) -> bool:
    """Return whether a connection was lost by a statement, in a process that executes something."""
    return error.connection_invalidated and KEPT.is_keeping


def _store_event(
    wrapped: Any, storage: SqlEventLogStorage, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    _store(wrapped, storage, *args, **kwargs)


def _store(
    store: Callable[[EventLogEntry], None], storage: SqlEventLogStorage, event: EventLogEntry
) -> None:
    for _ in range(MOST_REPEATS):
        try:
            store(event)
        except DBAPIError as error:
            if not _was_cut(error):
                raise
        else:
            return
        row_id = _find_row(storage, event)
        if row_id is not None:
            _store_what_belongs_to(storage, event, row_id)
            return
    store(event)


def _find_row(storage: SqlEventLogStorage, event: EventLogEntry) -> int | None:
    """Return the id of an event's row, if it is there, or is committed in the next seconds.

    The text has the time of the event, to the microsecond: no other one of the run is the same.
    """
    table = SqlEventLogStorageTable.c
    text = storage.prepare_insert_event(event).compile().params["event"]
    query = sa.select(table.id).where(table.run_id == event.run_id, table.event == text)

    def find() -> int | None:
        with storage.run_connection(event.run_id) as connection:
            found = connection.execute(query).scalar()
        return None if found is None else int(found)

    end = time.monotonic() + LATE_SECONDS
    while (row_id := repeated(find)) is None and time.monotonic() < end:
        time.sleep(PAUSE_SECONDS)
    return row_id


def _store_what_belongs_to(storage: SqlEventLogStorage, event: EventLogEntry, row_id: int) -> None:
    """Write what Dagster writes after the row of an event (``store_event``)."""
    if event.dagster_event is None:
        return
    if event.dagster_event_type in ASSET_EVENTS and event.dagster_event.asset_key:
        storage.store_asset_event_tags([event], [row_id])
        storage.store_asset_event(event, row_id)
    if event.dagster_event_type in ASSET_CHECK_EVENTS:
        storage.store_asset_check_event(event, row_id)
