"""The backend that keeps tasks, workers and notifications in SQL tables."""

import json
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import transitions
from dagster_taskiq.transport.backend import KEEP_SECONDS, UNFINISHED_SECONDS, StateBackend
from dagster_taskiq.transport.sql import tables
from dagster_taskiq.transport.sql.changes import LookUp
from dagster_taskiq.transport.sql.connection import SqlConnection
from dagster_taskiq.transport.sql.tables import notifications
from dagster_taskiq.wire.notifications import CHANNEL_LENGTH, FROM_START, Notification
from dagster_taskiq.wire.records import Task, TaskState, Worker, end_notification

#: After how many notifications in the table the channel of the last one is cut to its length.
TRIM_EVERY = 100
#: How many ids one statement has; SQLite allows 32,766 variables, older builds 999.
CHUNK = 500


class SqlBackend(StateBackend):
    """Each call is one transaction: it loads rows, calls ``transitions``, and writes the changes.

    A transaction that writes holds the write lock from its start, so no row changes meanwhile.
    """

    def __init__(self, settings: Settings, connection: SqlConnection | None = None) -> None:
        super().__init__(settings)
        self.connection: SqlConnection = connection or SqlConnection(
            settings.backend_url, settings.options_of_backend, settings.connect_timeout
        )

    async def startup(self) -> None:
        """Open the database, creating its tables."""
        await self.connection.open()

    async def shutdown(self) -> None:
        """Close the database."""
        await self.connection.close()

    async def ping(self) -> None:
        """Run one statement."""
        await self.connection.read(lambda connection: connection.execute(sa.select(1)))

    async def submitted(self, tasks: Sequence[Task]) -> None:
        """Insert the rows that are missing."""
        now = time.time()

        def work(connection: Connection) -> None:
            known = _select(connection, [task.id for task in tasks])
            new = [transitions.submit(None, task, now) for task in tasks if task.id not in known]
            if new:
                connection.execute(tables.tasks.insert(), [self._row(task) for task in new])

        await self.connection.write(work)

    async def start(self, task: Task, *, recorded: bool = False) -> TaskState | None:
        """Update the row from WAITING to STARTED, or insert it so."""
        now = time.time()

        def work(connection: Connection) -> TaskState | None:
            known = _select(connection, [task.id]).get(task.id)
            record, refused = transitions.start(known, task, now, recorded=recorded)
            self._store(connection, known, record, now)
            return refused

        return await self.connection.write(work)

    async def finish(self, task: Task, state: TaskState, error: str, result: bytes | None) -> bool:
        """Update the row, and add the notification, in one transaction."""
        now = time.time()

        def work(connection: Connection) -> bool:
            known = _select(connection, [task.id]).get(task.id)
            ended = transitions.finish(known, task, state, error, now)
            if ended is None:
                return False
            self._store(connection, known, ended, now, result=result)
            return True

        return await self.connection.write(work)

    async def revoke(self, task_ids: Sequence[str], reason: str) -> dict[str, str]:
        """Decide for each row by its state."""
        now = time.time()

        def work(connection: Connection) -> dict[str, str]:
            known = _select(connection, task_ids)
            for task_id in task_ids:
                before = known.get(task_id)
                after = transitions.revoke(before, task_id, reason, now)
                self._store(connection, before, after, now)
                known[task_id] = after
            started = [task for task in known.values() if task.state is TaskState.STARTED]
            return {task.id: task.worker for task in started}

        return await self.connection.write(work)

    async def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Select the rows."""
        return await self.connection.read(lambda connection: _select(connection, task_ids))

    async def beat(self, worker: Worker) -> list[str]:
        """Write the worker's row; look at the rows of what it runs."""
        now = time.time()
        body = {"prefix": self.settings.prefix, "beat_at": now, "body": worker.dumps()}

        def work(connection: Connection) -> list[str]:
            this = tables.workers.c.id == worker.id
            if not connection.execute(tables.workers.update().where(this).values(body)).rowcount:
                connection.execute(tables.workers.insert(), {"id": worker.id, **body})
            known = _select(connection, [each.id for each in worker.running])
            stop = []
            for each in worker.running:
                before = known.get(each.id)
                task = transitions.adopt(before, each, worker.id, now)
                self._store(connection, before, task, now)
                if transitions.must_stop(task, worker.id):
                    stop.append(task.id)
            return stop

        return await self.connection.write(work)

    async def deregister(self, worker_id: str) -> None:
        """Delete the worker's row."""
        mine = tables.workers.c.id == worker_id
        await self.connection.write(
            lambda connection: connection.execute(tables.workers.delete().where(mine))
        )

    async def workers(self) -> list[Worker]:
        """Select the rows, whose times are of this machine's clock."""
        now = time.time()
        mine = tables.workers.c.prefix == self.settings.prefix
        query = sa.select(tables.workers).where(mine)
        rows = await self.connection.read(lambda connection: connection.execute(query).all())
        found = [Worker.loads(row.body, max(0.0, now - row.beat_at)) for row in rows]
        return sorted(found, key=lambda worker: (worker.name, worker.id))

    async def post(self, channel: str, body: dict[str, Any]) -> None:
        """Insert a row."""
        await self.connection.write(
            lambda connection: _post(connection, channel, body, time.time())
        )

    async def collect(self, channel: str, after: str, timeout: float) -> list[Notification]:
        """Select the rows after the cursor; wait for a change if there are none."""
        cursor = int(after) if after != FROM_START else 0
        query = (
            sa.select(notifications.c.id, notifications.c.body)
            .where(notifications.c.channel == channel, notifications.c.id > cursor)
            .order_by(notifications.c.id)
        )
        deadline = time.monotonic() + timeout
        while True:
            mark = self.connection.changes.mark()
            if self.connection.changes.exists(_HAS_NEW, {"channel": channel, "cursor": cursor}):
                rows = await self.connection.read(lambda each: each.execute(query).all())
                return [Notification(str(row.id), json.loads(row.body)) for row in rows]
            left = deadline - time.monotonic()
            if left <= 0:
                return []
            await self.connection.changes.wait_beyond(mark, left)

    async def close_channel(self, channel: str) -> None:
        """Delete the rows."""
        its = notifications.c.channel == channel
        await self.connection.write(
            lambda connection: connection.execute(notifications.delete().where(its))
        )

    async def load_result(self, task_id: str) -> bytes | None:
        """Select the result."""
        query = sa.select(tables.tasks.c.result).where(tables.tasks.c.id == task_id)
        result = await self.connection.read(lambda connection: connection.scalar(query))
        return bytes(result) if result is not None else None

    async def forget(self, task_ids: Sequence[str]) -> None:
        """Delete the rows."""
        ended = tables.tasks.c.state.in_([state.value for state in TaskState if state.is_final])

        def work(connection: Connection) -> None:
            for first in range(0, len(task_ids), CHUNK):
                wanted = tables.tasks.c.id.in_(list(task_ids[first : first + CHUNK]))
                connection.execute(tables.tasks.delete().where(wanted, ended))

        await self.connection.write(work)

    async def sweep(self) -> None:
        """Delete tasks past their time to live, and notifications and workers older than a day.

        A task that never ended is deleted a month after its last change, unless its worker is still
        there.
        """
        now = time.time()
        task, long_ago = tables.tasks.c, now - UNFINISHED_SECONDS
        expired = (
            tables.tasks.delete().where(
                task.finished_at > 0, task.finished_at < now - self.settings.result_ttl
            ),
            notifications.delete().where(notifications.c.created_at < now - KEEP_SECONDS),
            tables.workers.delete().where(tables.workers.c.beat_at < now - KEEP_SECONDS),
            tables.tasks.delete().where(
                task.finished_at == 0,
                task.submitted_at < long_ago,
                task.started_at < long_ago,
                task.worker.not_in(sa.select(tables.workers.c.id)),
            ),
        )

        def work(connection: Connection) -> None:
            for statement in expired:
                connection.execute(statement)

        await self.connection.write(work)

    def _store(
        self,
        connection: Connection,
        before: Task | None,
        after: Task,
        now: float,
        **columns: Any,
    ) -> None:
        """Write what a transition has changed of a row, and notify the run's loop of an end.

        Args:
            connection: one in a transaction.
            before: the record that the row has; ``None`` if there is no row.
            after: the record that it shall have.
            now: the time of the notification.
            columns: columns that are no part of the record, with their values.
        """
        row = {**self._row(after), **columns}
        if before is None:
            connection.execute(tables.tasks.insert(), row)
        elif before is not after:
            old = self._row(before)
            changed = {name: value for name, value in row.items() if value != old.get(name)}
            connection.execute(_UPDATE, {"this": after.id, **changed})
        if after.loop_channel and transitions.has_ended(before, after):
            _post(connection, after.loop_channel, end_notification(after, after.state), now)

    def _row(self, task: Task) -> dict[str, Any]:
        """Return a record as the columns of its row, which have the names of its fields."""
        return {**vars(task), "state": task.state.value, "prefix": self.settings.prefix}


# Statements that do not change are built once, which takes longer than to run them.
#: The rows of some tasks.
_SELECT = sa.select(tables.tasks).where(tables.tasks.c.id.in_(sa.bindparam("ids", expanding=True)))
#: Sets the columns that have a value.
_UPDATE = tables.tasks.update().where(tables.tasks.c.id == sa.bindparam("this"))
#: Whether a channel has notifications after a cursor.
_HAS_NEW = LookUp(
    sa.select(notifications.c.id).where(
        notifications.c.channel == sa.bindparam("channel"),
        notifications.c.id > sa.bindparam("cursor"),
    )
)


def _select(connection: Connection, task_ids: Sequence[str]) -> dict[str, Task]:
    found = {}
    for first in range(0, len(task_ids), CHUNK):
        for row in connection.execute(_SELECT, {"ids": list(task_ids[first : first + CHUNK])}):
            found[row.id] = _task(row)
    return found


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
    )


def _post(connection: Connection, channel: str, body: dict[str, Any], now: float) -> None:
    row = {"channel": channel, "body": json.dumps(body), "created_at": now}
    (number,) = connection.execute(notifications.insert(), row).inserted_primary_key or (0,)
    if number % TRIM_EVERY == 0:
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
