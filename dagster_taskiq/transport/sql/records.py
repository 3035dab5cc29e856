"""The records of tasks in their table, in a transaction of the backend's or of the broker's."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dagster_taskiq.transport import transitions
from dagster_taskiq.transport.sql import tables
from dagster_taskiq.transport.sql.conditions import IS_ONE_OF
from dagster_taskiq.transport.sql.database import ENDS_WRITE
from dagster_taskiq.transport.sql.dialect import SqlDialect
from dagster_taskiq.transport.sql.tables import notifications
from dagster_taskiq.wire.notifications import CHANNEL_LENGTH
from dagster_taskiq.wire.records import Task, TaskState, end_notification

#: After how many notifications in the table the channel of the last one is cut to its length.
TRIM_EVERY = 100
#: How many ids one statement has; SQLite allows 32,766 variables, older builds 999.
CHUNK = 500


class SqlRecords:
    """Loads the rows of tasks of one prefix, and writes what transitions have changed of them.

    Each method is called with a connection in a transaction (``SqlDatabase.write``), except
    :meth:`read`.
    """

    def __init__(self, dialect: SqlDialect, prefix: str) -> None:
        self._dialect = dialect
        self._prefix = prefix

    def read(self, connection: Connection, task_ids: Sequence[str]) -> dict[str, Task]:
        """Return the records of tasks, by id."""
        found = {}
        for chunk in chunks(task_ids):
            mine = {"prefix": self._prefix, "ids": chunk}
            found.update({row.id: _task(row) for row in connection.execute(_SELECT, mine)})
        return found

    def lock(
        self, connection: Connection, task_ids: Sequence[str]
    ) -> tuple[dict[str, Task], float]:
        """Return the records of tasks, locked until the transaction ends, and the time then."""
        found: dict[str, Task] = {}
        now = 0.0
        for chunk in chunks(sorted(set(task_ids))):
            rows, now = self._dialect.lock_tasks(connection, self._prefix, chunk)
            found.update({row.id: _task(row) for row in rows})
        return found, now

    def store(
        self, connection: Connection, changes: Sequence[tuple[Task | None, Task]], **columns: Any
    ) -> None:
        """Write what transitions have changed of rows, and notify the loops of runs of ends.

        If that is the update of one row, it may commit the transaction.

        Args:
            connection: that of the transaction.
            changes: the record that each row has, ``None`` if there is no row; and the record that
                it shall have.
            columns: columns that are no part of the records, with their values.
        """
        new: list[dict[str, Any]] = []
        # What is set in rows of which the same columns change, by these.
        changed: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        ends: dict[str, list[dict[str, Any]]] = {}
        for before, after in changes:
            row = {**self.row(after), **columns}
            if before is None:
                new.append(row)
            elif before is not after:
                old = self.row(before)
                values = {name: value for name, value in row.items() if value != old.get(name)}
                this = {"this": after.id, "mine": self._prefix}
                changed.setdefault(tuple(values), []).append({**this, **values})
            if after.loop_channel and transitions.has_ended(before, after):
                ends.setdefault(after.loop_channel, []).append(end_notification(after, after.state))
        is_one_update = not new and not ends and len(changed) == 1
        if new:
            connection.execute(tables.tasks.insert(), new)
        for rows in changed.values():
            connection.execute(UPDATE_TASK, rows, execution_options={ENDS_WRITE: is_one_update})
        # In one order, so that two transactions cannot wait for each other.
        for channel in sorted(ends):
            self.post(connection, channel, ends[channel])

    def post(self, connection: Connection, channel: str, bodies: Sequence[dict[str, Any]]) -> None:
        """Add notifications to a channel, and cut it to its length now and then."""
        texts = [json.dumps(body) for body in bodies]
        number = self._dialect.insert_notifications(connection, channel, texts)
        if number // TRIM_EVERY != (number - len(texts)) // TRIM_EVERY:
            last = (
                sa.select(notifications.c.id)
                .where(notifications.c.channel == channel)
                .order_by(notifications.c.id.desc())
                .offset(CHANNEL_LENGTH)
                .limit(1)
                .scalar_subquery()
            )
            old = notifications.delete().where(
                notifications.c.channel == channel, notifications.c.id <= last
            )
            connection.execute(old)

    def row(self, task: Task) -> dict[str, Any]:
        """Return a record as the columns of its row, which have the names of its fields."""
        return {**vars(task), "state": task.state.value, "prefix": self._prefix}


# Statements that do not change are built once, which takes longer than to run them.
#: The rows of some tasks.
_SELECT = sa.select(tables.tasks).where(IS_ONE_OF)
#: Sets the columns that have a value.
UPDATE_TASK = tables.tasks.update().where(
    tables.tasks.c.prefix == sa.bindparam("mine"), tables.tasks.c.id == sa.bindparam("this")
)


def chunks(task_ids: Sequence[str]) -> Iterator[list[str]]:
    """Yield ids, as many at a time as one statement may have."""
    for first in range(0, len(task_ids), CHUNK):
        yield list(task_ids[first : first + CHUNK])


def _task(row: Row[Any]) -> Task:
    return Task(
        id=row.id,
        name=row.name,
        queue=row.queue,
        run_id=row.run_id,
        step_key=row.step_key,
        state=TaskState(row.state),
        worker=row.worker,
        submitted_at=row.submitted_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        error=row.error,
        revoke_requested=bool(row.revoke_requested),
        attempt=row.attempt,
    )
