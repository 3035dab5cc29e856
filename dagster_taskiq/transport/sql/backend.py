"""The backend that keeps tasks, workers and mail in SQL tables, beside the broker's own."""

import json
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dagster_taskiq.errors import NoRecordError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.backend import KEEP_SECONDS, UNFINISHED_SECONDS, StateBackend
from dagster_taskiq.transport.sql import tables
from dagster_taskiq.transport.sql.connection import SqlConnection
from dagster_taskiq.wire.notifications import CHANNEL_LENGTH, FROM_START, Notification
from dagster_taskiq.wire.records import Task, TaskState, Worker, end_notification

#: A channel is cut to its length at every so many mails on the server.
TRIM_EVERY = 100
#: How many ids stand in one statement; SQLite allows 32,766 variables, older builds 999.
CHUNK = 500


class SqlBackend(StateBackend):
    """Each call is one transaction; what a task may become is decided under the write lock."""

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
            known = set(_select(connection, [task.id for task in tasks]))
            rows = [self._row(task, now) for task in tasks if task.id not in known]
            if rows:
                connection.execute(tables.tasks.insert(), rows)

        await self.connection.write(work)

    async def start(self, task: Task, *, recorded: bool = False) -> TaskState | None:
        """Update the row from WAITING to STARTED, or insert it so."""
        now = time.time()

        def work(connection: Connection) -> TaskState | None:
            known = _select(connection, [task.id]).get(task.id)
            if known is None and recorded:
                raise NoRecordError.of(task.id)
            if known is None:
                row = {**self._row(task, now), "state": TaskState.STARTED.value, "started_at": now}
                connection.execute(tables.tasks.insert(), row)
                return None
            if known.state is not TaskState.WAITING:
                return known.state
            started = {"state": TaskState.STARTED.value, "worker": task.worker, "started_at": now}
            _update(connection, task.id, started)
            return None

        return await self.connection.write(work)

    async def finish(self, task: Task, state: TaskState, error: str, result: bytes | None) -> bool:
        """Update the row, and add the mail, in one transaction."""
        now = time.time()
        ended = {
            "state": state.value,
            "finished_at": now,
            "error": error,
            "result": result,
        }

        def work(connection: Connection) -> bool:
            known = _select(connection, [task.id]).get(task.id)
            if known is None or known.state is not TaskState.STARTED:
                return False
            if known.worker != task.worker:
                return False
            _update(connection, task.id, ended)
            if known.loop_channel:
                _post(connection, known.loop_channel, end_notification(known, state), now)
            return True

        return await self.connection.write(work)

    async def revoke(self, task_ids: Sequence[str], reason: str) -> dict[str, str]:
        """Decide for each row by its state."""
        now = time.time()
        gone = {"state": TaskState.REVOKED.value, "finished_at": now, "error": reason}

        def work(connection: Connection) -> dict[str, str]:
            known = _select(connection, task_ids)
            started = {}
            for task_id in task_ids:
                task = known.get(task_id)
                if task is None:
                    row = {**self._row(Task(task_id), now), **gone}
                    connection.execute(tables.tasks.insert(), row)
                elif task.state is TaskState.WAITING:
                    _update(connection, task_id, gone)
                    if task.loop_channel:
                        body = end_notification(task, TaskState.REVOKED)
                        _post(connection, task.loop_channel, body, now)
                elif task.state is TaskState.STARTED:
                    _update(connection, task_id, {"revoke_requested": True, "error": reason})
                    started[task_id] = task.worker
            return started

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
            for each in worker.running:
                # The record was lost, and the task may have been sent again since.
                mine = {"state": TaskState.STARTED.value, "worker": worker.id, "started_at": now}
                if each.id not in known:
                    task = Task(each.id, each.name, "", each.run_id, each.step_key)
                    connection.execute(tables.tasks.insert(), {**self._row(task, now), **mine})
                elif known[each.id].state is TaskState.WAITING:
                    _update(connection, each.id, mine)
                    del known[each.id]
            return [task.id for task in known.values() if _must_stop(task, worker.id)]

        return await self.connection.write(work)

    async def deregister(self, worker_id: str) -> None:
        """Delete the worker's row."""
        mine = tables.workers.c.id == worker_id
        await self.connection.write(
            lambda connection: connection.execute(tables.workers.delete().where(mine))
        )

    async def workers(self) -> list[Worker]:
        """Select the rows; this machine's clock wrote their times."""
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
        """Select the rows after the cursor, waiting for a change where there are none."""
        cursor = int(after) if after != FROM_START else 0
        query = (
            sa.select(tables.mail.c.id, tables.mail.c.body)
            .where(tables.mail.c.channel == channel, tables.mail.c.id > cursor)
            .order_by(tables.mail.c.id)
        )
        new = f"SELECT 1 FROM {tables.mail.name} WHERE channel = ? AND id > ? LIMIT 1"
        deadline = time.monotonic() + timeout
        while True:
            mark = self.connection.mark()
            if self.connection.exists(new, channel, cursor):
                rows = await self.connection.read(lambda each: each.execute(query).all())
                return [Notification(str(row.id), json.loads(row.body)) for row in rows]
            left = deadline - time.monotonic()
            if left <= 0:
                return []
            await self.connection.wait_beyond(mark, left)

    async def close_channel(self, channel: str) -> None:
        """Delete the rows."""
        its = tables.mail.c.channel == channel
        await self.connection.write(
            lambda connection: connection.execute(tables.mail.delete().where(its))
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
        """Delete tasks past their time to live, and mail and workers of yesterday.

        A task that never ended goes when nothing was heard of it for a month and its worker, if it
        had one, has gone before.
        """
        now = time.time()
        task, long_ago = tables.tasks.c, now - UNFINISHED_SECONDS
        expired = (
            tables.tasks.delete().where(
                task.finished_at > 0, task.finished_at < now - self.settings.result_ttl
            ),
            tables.mail.delete().where(tables.mail.c.created_at < now - KEEP_SECONDS),
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

    def _row(self, task: Task, now: float) -> dict[str, Any]:
        return {
            "id": task.id,
            "prefix": self.settings.prefix,
            "name": task.name,
            "queue": task.queue,
            "run_id": task.run_id,
            "step_key": task.step_key,
            "state": TaskState.WAITING.value,
            "worker": task.worker,
            "submitted_at": now,
            "started_at": 0.0,
            "finished_at": 0.0,
            "error": "",
            "revoke_requested": False,
        }


def _must_stop(task: Task, worker_id: str) -> bool:
    if task.state is TaskState.STARTED and task.worker == worker_id:
        return task.revoke_requested
    return True


#: The rows of some tasks; made here once, since that takes longer than to run it.
_SELECT = sa.select(tables.tasks).where(tables.tasks.c.id.in_(sa.bindparam("ids", expanding=True)))


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


def _update(connection: Connection, task_id: str, values: dict[str, Any]) -> None:
    connection.execute(tables.tasks.update().where(tables.tasks.c.id == task_id).values(values))


def _post(connection: Connection, channel: str, body: dict[str, Any], now: float) -> None:
    row = {"channel": channel, "body": json.dumps(body), "created_at": now}
    (number,) = connection.execute(tables.mail.insert(), row).inserted_primary_key or (0,)
    if number % TRIM_EVERY == 0:
        last = (
            sa.select(tables.mail.c.id)
            .where(tables.mail.c.channel == channel)
            .order_by(tables.mail.c.id.desc())
            .offset(CHANNEL_LENGTH)
            .limit(1)
            .scalar_subquery()
        )
        old = tables.mail.delete().where(tables.mail.c.channel == channel, tables.mail.c.id <= last)
        connection.execute(old)
