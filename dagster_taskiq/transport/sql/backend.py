"""The backend that keeps tasks, workers and notifications in SQL tables."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import transitions
from dagster_taskiq.transport.backend import KEEP_SECONDS, UNFINISHED_SECONDS, StateBackend
from dagster_taskiq.transport.messages import Outgoing
from dagster_taskiq.transport.sql import tables
from dagster_taskiq.transport.sql.database import SqlDatabase
from dagster_taskiq.transport.sql.dialect import channel_topic
from dagster_taskiq.transport.sql.records import UPDATE_TASK, SqlRecords, chunks
from dagster_taskiq.transport.sql.schedule_store import SqlScheduleStore
from dagster_taskiq.transport.sql.sending import SqlSender
from dagster_taskiq.transport.sql.tables import notifications
from dagster_taskiq.wire.notifications import FROM_START, Notification
from dagster_taskiq.wire.records import Task, TaskState, Worker


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
        #: The records of tasks in their table.
        self.records = SqlRecords(self._dialect, settings.prefix)

    async def ping(self) -> None:
        """Run one statement."""
        await self.connection.ping()

    async def submitted(self, tasks: Sequence[Task]) -> None:
        """Insert the rows that are missing."""
        clock = self._dialect.clock_values()
        rows = []
        for task in tasks:
            row = self.records.row(task)
            del row["submitted_at"]
            rows.append({**row, **clock})
        if rows:
            await self.connection.run(lambda connection: connection.execute(self._submit, rows))

    async def start(self, task: Task, *, recorded: bool = False) -> TaskState | None:
        """Update the row from WAITING to STARTED, or insert it so."""

        def work(connection: Connection) -> TaskState | None:
            rows, now = self.records.lock(connection, [task.id])
            known = rows.get(task.id)
            record, refused = transitions.start(known, task, now, recorded=recorded)
            self.records.store(connection, [(known, record)])
            return refused

        return await self.connection.write(work)

    async def put_back(self, task: Task, message: Outgoing | None) -> bool:
        """Update the row from STARTED to WAITING, and insert the message, in one transaction."""

        def work(connection: Connection) -> bool:
            rows, now = self.records.lock(connection, [task.id])
            known = rows.get(task.id)
            waiting = transitions.put_back(known, task, now)
            if waiting is None:
                return False
            # The update is the last statement of the transaction, and may commit it.
            if message is not None:
                self._sender.put(connection, [message])
            self.records.store(connection, [(known, waiting)])
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
            rows, now = self.records.lock(connection, [task.id])
            known = rows.get(task.id)
            ended = transition(known, task, state, error, now)
            if ended is None:
                return False
            self.records.store(connection, [(known, ended)], result=result)
            return True

        return await self.connection.write(work)

    async def revoke(self, task_ids: Sequence[str], reason: str) -> dict[str, str]:
        """Decide for each row by its state."""

        def work(connection: Connection) -> dict[str, str]:
            known, now = self.records.lock(connection, task_ids)
            changes = []
            for task_id in sorted(set(task_ids)):
                before = known.get(task_id)
                changes.append((before, transitions.revoke(before, task_id, reason, now)))
            self.records.store(connection, changes)
            revoked = [after for _, after in changes]
            return {task.id: task.worker for task in revoked if task.state is TaskState.STARTED}

        return await self.connection.write(work)

    async def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Select the rows."""

        return await self.connection.read(
            lambda connection: self.records.read(connection, task_ids)
        )

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
            known, now = self.records.lock(connection, [each.id for each in worker.running])
            changes = []
            for each in worker.running:
                before = known.get(each.id)
                changes.append((before, transitions.adopt(before, each, worker.id, now)))
            self.records.store(connection, changes)
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
        await self.connection.run(lambda connection: self.records.post(connection, channel, [body]))

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
        await self.connection.run(lambda connection: connection.execute(UPDATE_TASK, [this]))

    async def load_progress(self, task_id: str) -> bytes | None:
        """Select it."""
        return await self._select(tables.tasks.c.progress, task_id)

    async def forget(self, task_ids: Sequence[str]) -> None:
        """Delete the rows."""
        task = tables.tasks.c
        ended = task.state.in_([state.value for state in TaskState if state.is_final])

        def work(connection: Connection) -> None:
            for chunk in chunks(task_ids):
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


#: The notifications of a channel after a cursor. Built once, which takes longer than to run it.
_NEW = (
    sa.select(notifications.c.id, notifications.c.body)
    .where(
        notifications.c.channel == sa.bindparam("channel"),
        notifications.c.id > sa.bindparam("cursor"),
    )
    .order_by(notifications.c.id)
)
