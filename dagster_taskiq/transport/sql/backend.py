"""The backend that keeps tasks, workers and notifications in SQL tables."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import transitions
from dagster_taskiq.transport.backend import KEEP_SECONDS, UNFINISHED_SECONDS, StateBackend
from dagster_taskiq.transport.messages import Outgoing
from dagster_taskiq.transport.sql import tables
from dagster_taskiq.transport.sql.conditions import IS_ONE_OF
from dagster_taskiq.transport.sql.database import ENDS_WRITE, SqlDatabase
from dagster_taskiq.transport.sql.dialect import channel_topic
from dagster_taskiq.transport.sql.schedule_store import SqlScheduleStore
from dagster_taskiq.transport.sql.sending import SqlSender
from dagster_taskiq.transport.sql.tables import notifications
from dagster_taskiq.wire.notifications import CHANNEL_LENGTH, FROM_START, Notification
from dagster_taskiq.wire.records import Task, TaskState, Worker, end_notification

#: After how many notifications in the table the channel of the last one is cut to its length.
TRIM_EVERY = 100
#: How many ids one statement has; SQLite allows 32,766 variables, older builds 999.
CHUNK = 500


class SqlBackend(StateBackend):
    """Each call is one transaction: it loads rows, calls ``transitions``, and writes the changes.

    The rows are locked when they are loaded, so none changes meanwhile. A subclass names the kind
    of its database.
    """

    puts_messages = True
    database_class: ClassVar[type[SqlDatabase]]

    def __init__(self, settings: Settings, connection: SqlDatabase | None = None) -> None:
        super().__init__(settings)
        self.connection: SqlDatabase = connection or self.database_class(
            settings.backend_url, settings.options_of_backend, settings.connect_timeout
        )
        self._dialect = self.connection.dialect
        clock = self._dialect.clock
        insert = self._dialect.insert_missing(tables.tasks)
        #: Inserts records of tasks that are sent now.
        self._submit = insert.values(submitted_at=clock)
        self._sender = SqlSender(self._dialect, settings.prefix)

    async def ping(self) -> None:
        """Run one statement."""
        await self.connection.ping()

    async def submitted(self, tasks: Sequence[Task]) -> None:
        """Insert the rows that are missing."""
        clock = self._dialect.clock_values()
        rows = []
        for task in tasks:
            row = self._row(task)
            del row["submitted_at"]
            rows.append({**row, **clock})
        if rows:
            await self.connection.run(lambda connection: connection.execute(self._submit, rows))

    async def start(self, task: Task, *, recorded: bool = False) -> TaskState | None:
        """Update the row from WAITING to STARTED, or insert it so."""

        def work(connection: Connection) -> TaskState | None:
            rows, now = self._lock(connection, [task.id])
            known = rows.get(task.id)
            record, refused = transitions.start(known, task, now, recorded=recorded)
            self._store(connection, [(known, record)])
            return refused

        return await self.connection.write(work)

    async def put_back(self, task: Task, message: Outgoing | None) -> bool:
        """Update the row from STARTED to WAITING, and insert the message, in one transaction."""

        def work(connection: Connection) -> bool:
            rows, now = self._lock(connection, [task.id])
            known = rows.get(task.id)
            waiting = transitions.put_back(known, task, now)
            if waiting is None:
                return False
            # The update is the last statement of the transaction, and may commit it.
            if message is not None:
                self._sender.put(connection, [message])
            self._store(connection, [(known, waiting)])
            return True

        return await self.connection.write(work)

    async def conclude(
        self, task: Task, state: TaskState, error: str, result: bytes | None
    ) -> bool:
        """Update the row, or insert it, with the result."""
        return await self._end(transitions.conclude, task, state, error, result)

    async def finish(self, task: Task, state: TaskState, error: str, result: bytes | None) -> bool:
        """Update the row, and add the notification, in one transaction."""
        return await self._end(transitions.finish, task, state, error, result)

    async def _end(
        self,
        transition: Callable[[Task | None, Task, TaskState, str, float], Task | None],
        task: Task,
        state: TaskState,
        error: str,
        result: bytes | None,
    ) -> bool:
        def work(connection: Connection) -> bool:
            rows, now = self._lock(connection, [task.id])
            known = rows.get(task.id)
            ended = transition(known, task, state, error, now)
            if ended is None:
                return False
            self._store(connection, [(known, ended)], result=result)
            return True

        return await self.connection.write(work)

    async def revoke(self, task_ids: Sequence[str], reason: str) -> dict[str, str]:
        """Decide for each row by its state."""

        def work(connection: Connection) -> dict[str, str]:
            known, now = self._lock(connection, task_ids)
            changes = []
            for task_id in sorted(set(task_ids)):
                before = known.get(task_id)
                changes.append((before, transitions.revoke(before, task_id, reason, now)))
            self._store(connection, changes)
            revoked = [after for _, after in changes]
            return {task.id: task.worker for task in revoked if task.state is TaskState.STARTED}

        return await self.connection.write(work)

    async def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Select the rows."""

        def work(connection: Connection) -> dict[str, Task]:
            found = {}
            for chunk in _chunks(task_ids):
                mine = {"prefix": self.settings.prefix, "ids": chunk}
                found.update({row.id: _task(row) for row in connection.execute(_SELECT, mine)})
            return found

        return await self.connection.read(work)

    async def beat(self, worker: Worker) -> list[str]:
        """Write the worker's row; look at the rows of what it runs."""
        table, clock = tables.workers, self._dialect.clock_values()
        columns = {"prefix": self.settings.prefix, "body": worker.dumps()}
        this = table.c.id == worker.id
        update = table.update().where(this).values(beat_at=self._dialect.clock, **columns)
        insert = table.insert().values(id=worker.id, beat_at=self._dialect.clock, **columns)

        def work(connection: Connection) -> list[str]:
            if not connection.execute(update, clock).rowcount:
                connection.execute(insert, clock)
            known, now = self._lock(connection, [each.id for each in worker.running])
            changes = []
            for each in worker.running:
                before = known.get(each.id)
                changes.append((before, transitions.adopt(before, each, worker.id, now)))
            self._store(connection, changes)
            return [
                task.id
                for each, (_, task) in zip(worker.running, changes, strict=True)
                if transitions.must_stop(task, each, worker.id)
            ]

        return await self.connection.write(work)

    async def deregister(self, worker_id: str) -> None:
        """Delete the worker's row."""
        mine = tables.workers.c.id == worker_id
        await self.connection.run(
            lambda connection: connection.execute(tables.workers.delete().where(mine))
        )

    async def workers(self) -> list[Worker]:
        """Select the rows, with the time since each heartbeat."""
        age = (self._dialect.clock - tables.workers.c.beat_at).label("age")
        mine = tables.workers.c.prefix == self.settings.prefix
        query = sa.select(tables.workers.c.body, age).where(mine)
        clock = self._dialect.clock_values()
        rows = await self.connection.read(lambda connection: connection.execute(query, clock).all())
        found = [Worker.loads(row.body, max(0.0, row.age)) for row in rows]
        return sorted(found, key=lambda worker: (worker.name, worker.id))

    async def post(self, channel: str, body: dict[str, Any]) -> None:
        """Insert a row."""
        await self.connection.run(lambda connection: self._post(connection, channel, [body]))

    async def collect(self, channel: str, after: str, timeout: float) -> list[Notification]:
        """Select the rows after the cursor; wait for a change if there are none."""
        wanted = {"channel": channel, "cursor": int(after) if after != FROM_START else 0}
        topics = [channel_topic(channel)]
        deadline = time.monotonic() + timeout
        while True:
            mark = self.connection.mark()
            # Without a wait, what has been posted before the call must be found.
            must_look = timeout <= 0 or not self.connection.is_unchanged(after, topics)
            if must_look and self.connection.may_find(_NEW, wanted):
                rows = await self.connection.read(lambda each: each.execute(_NEW, wanted).all())
                if rows:
                    self.connection.note_found()
                    found = [Notification(str(row.id), json.loads(row.body)) for row in rows]
                    self.connection.note_empty(found[-1].cursor, topics, mark)
                    return found
                self.connection.note_empty(after, topics, mark)
            left = deadline - time.monotonic()
            if left <= 0:
                return []
            await self.connection.wait_beyond(mark, topics, left)

    async def close_channel(self, channel: str) -> None:
        """Delete the rows."""
        self.connection.forget(channel_topic(channel))
        its = notifications.c.channel == channel
        await self.connection.run(
            lambda connection: connection.execute(notifications.delete().where(its))
        )

    async def load_result(self, task_id: str) -> bytes | None:
        """Select it."""
        return await self._select(tables.tasks.c.result, task_id)

    async def store_progress(self, task_id: str, progress: bytes) -> None:
        """Update the row, if there is one."""
        this = {"mine": self.settings.prefix, "this": task_id, "progress": progress}
        await self.connection.run(lambda connection: connection.execute(_UPDATE, [this]))

    async def load_progress(self, task_id: str) -> bytes | None:
        """Select it."""
        return await self._select(tables.tasks.c.progress, task_id)

    async def forget(self, task_ids: Sequence[str]) -> None:
        """Delete the rows."""
        task = tables.tasks.c
        ended = task.state.in_([state.value for state in TaskState if state.is_final])

        def work(connection: Connection) -> None:
            for chunk in _chunks(task_ids):
                mine = (task.prefix == self.settings.prefix) & task.id.in_(chunk)
                connection.execute(tables.tasks.delete().where(mine, ended))

        await self.connection.run(work)

    async def sweep(self) -> None:
        """Delete tasks past their time to live, and notifications and workers older than a day.

        A task that never ended is deleted a month after its last change, unless its worker is still
        there.
        """
        now, task = self._dialect.clock, tables.tasks.c
        long_ago = now - UNFINISHED_SECONDS
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
        clock = self._dialect.clock_values()

        def work(connection: Connection) -> None:
            for statement in expired:
                connection.execute(statement, clock)

        await self.connection.run(work)

    async def _select(self, column: "sa.Column[Any]", task_id: str) -> bytes | None:
        """Return the bytes in a column of a task's row; ``None`` if there are none."""
        its = (tables.tasks.c.prefix == self.settings.prefix) & (tables.tasks.c.id == task_id)
        query = sa.select(column).where(its)
        found = await self.connection.read(lambda connection: connection.scalar(query))
        return bytes(found) if found is not None else None

    def schedule_store(self) -> SqlScheduleStore:
        """See the base class."""
        return SqlScheduleStore(self.connection, self.settings.prefix)

    def _lock(
        self, connection: Connection, task_ids: Sequence[str]
    ) -> tuple[dict[str, Task], float]:
        """Return the records of tasks, locked until the transaction ends, and the time then."""
        found: dict[str, Task] = {}
        now = 0.0
        for chunk in _chunks(sorted(set(task_ids))):
            rows, now = self._dialect.lock_tasks(connection, self.settings.prefix, chunk)
            found.update({row.id: _task(row) for row in rows})
        return found, now

    def _store(
        self, connection: Connection, changes: Sequence[tuple[Task | None, Task]], **columns: Any
    ) -> None:
        """Write what transitions have changed of rows, and notify the loops of runs of ends.

        Args:
            connection: one in a transaction.
            changes: the record that each row has, ``None`` if there is no row; and the record that
                it shall have.
            columns: columns that are no part of the records, with their values.
        """
        new: list[dict[str, Any]] = []
        # What is set in rows of which the same columns change, by these.
        changed: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        ends: dict[str, list[dict[str, Any]]] = {}
        for before, after in changes:
            row = {**self._row(after), **columns}
            if before is None:
                new.append(row)
            elif before is not after:
                old = self._row(before)
                values = {name: value for name, value in row.items() if value != old.get(name)}
                this = {"this": after.id, "mine": self.settings.prefix}
                changed.setdefault(tuple(values), []).append({**this, **values})
            if after.loop_channel and transitions.has_ended(before, after):
                ends.setdefault(after.loop_channel, []).append(end_notification(after, after.state))
        is_one_update = not new and not ends and len(changed) == 1
        if new:
            connection.execute(tables.tasks.insert(), new)
        for rows in changed.values():
            connection.execute(_UPDATE, rows, execution_options={ENDS_WRITE: is_one_update})
        # In one order, so that two transactions cannot wait for each other.
        for channel in sorted(ends):
            self._post(connection, channel, ends[channel])

    def _post(self, connection: Connection, channel: str, bodies: Sequence[dict[str, Any]]) -> None:
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

    def _row(self, task: Task) -> dict[str, Any]:
        """Return a record as the columns of its row, which have the names of its fields."""
        return {**vars(task), "state": task.state.value, "prefix": self.settings.prefix}


# Statements that do not change are built once, which takes longer than to run them.
#: The rows of some tasks.
_SELECT = sa.select(tables.tasks).where(IS_ONE_OF)
#: Sets the columns that have a value.
_UPDATE = tables.tasks.update().where(
    tables.tasks.c.prefix == sa.bindparam("mine"), tables.tasks.c.id == sa.bindparam("this")
)
#: The notifications of a channel after a cursor.
_NEW = (
    sa.select(notifications.c.id, notifications.c.body)
    .where(
        notifications.c.channel == sa.bindparam("channel"),
        notifications.c.id > sa.bindparam("cursor"),
    )
    .order_by(notifications.c.id)
)


def _chunks(task_ids: Sequence[str]) -> Iterator[list[str]]:
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
