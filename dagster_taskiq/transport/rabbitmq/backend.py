"""The backend on RabbitMQ itself, ``rpc://``: the state of tasks and workers, and notifications.

Celery's backend of that name answers only the process that has sent a task. Here the state of every
task and worker is part of a record on the server (see ``records``) that any process may read and
change, also when the process that wrote it has ended.

AMQP has no clock that could be asked: times are those of the process that writes.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import transitions
from dagster_taskiq.transport.backend import KEEP_SECONDS, StateBackend
from dagster_taskiq.transport.messages import Outgoing
from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.ended_tasks import EndedTasks
from dagster_taskiq.transport.rabbitmq.heartbeats import Heartbeats
from dagster_taskiq.transport.rabbitmq.inbox import Inbox
from dagster_taskiq.transport.rabbitmq.names import Names
from dagster_taskiq.transport.rabbitmq.progress import Progress
from dagster_taskiq.transport.rabbitmq.records import (
    WORKERS,
    Around,
    Record,
    records_of,
    task_shard,
)
from dagster_taskiq.transport.rabbitmq.task_table import Fields, TaskTable, by_shard
from dagster_taskiq.wire.notifications import Notification
from dagster_taskiq.wire.records import Running, Task, TaskState, Worker, end_notification

T = TypeVar("T")


class RabbitBackend(StateBackend):
    """Records for tasks and workers; queues for tasks that have ended, and for notifications."""

    def __init__(self, settings: Settings, connection: RabbitConnection | None = None) -> None:
        """Prepare; nothing is connected yet.

        Args:
            settings: whose ``backend_url`` names the server.
            connection: that of a broker on the same server; by default one of its own.
        """
        super().__init__(settings)
        self.connection: RabbitConnection = connection or RabbitConnection(
            settings.backend_url,
            settings.options_of_backend,
            settings.connect_timeout,
            settings.lease,
        )
        names = Names(settings.prefix)
        self._records = records_of(self.connection, settings.prefix)
        self._ended = EndedTasks(self.connection, names, settings.result_ttl)
        self._progress = Progress(self.connection, names, settings.result_ttl)
        self._inbox = Inbox(self.connection, names)
        self._heartbeats = Heartbeats()

    async def ping(self) -> None:
        """Ask the server."""
        await self.connection.ping()

    async def submitted(self, tasks: Sequence[Task]) -> None:
        """Add the tasks that are missing, one shard after the other."""
        for shard, ids in by_shard([task.id for task in tasks]).items():
            in_shard = [task for task in tasks if task.id in ids]

            def submit(table: TaskTable, in_shard: Sequence[Task] = in_shard) -> None:
                for task in in_shard:
                    known = table.get(task.id)
                    table[task.id] = transitions.submit(known, task, time.time())

            await self._change(shard, ids, submit)

    async def start(self, task: Task, *, recorded: bool = False) -> TaskState | None:
        """Change WAITING to STARTED."""

        def start(table: TaskTable) -> TaskState | None:
            known = table.get(task.id)
            started, refused = transitions.start(known, task, time.time(), recorded=recorded)
            table[task.id] = started
            return refused

        return await self._change(task_shard(task.id), [task.id], start)

    async def put_back(self, task: Task, message: Outgoing | None) -> bool:
        """Change STARTED to WAITING. No transaction has both a record and a message."""

        def put_back(table: TaskTable) -> bool:
            waiting = transitions.put_back(table.get(task.id), task, time.time())
            if waiting is not None:
                table[task.id] = waiting
            return waiting is not None

        return await self._change(task_shard(task.id), [task.id], put_back)

    async def conclude(
        self, task: Task, state: TaskState, error: str, result: bytes | None
    ) -> bool:
        """Change WAITING to a final state, or add the record; as :meth:`finish`."""
        change = partial(transitions.conclude, task=task, state=state, error=error)
        return await self._end(task, state, result, change)

    async def finish(self, task: Task, state: TaskState, error: str, result: bytes | None) -> bool:
        """Change STARTED to a final state, and store the result with it."""
        change = partial(transitions.finish, task=task, state=state, error=error)
        return await self._end(task, state, result, change)

    async def _end(
        self,
        task: Task,
        state: TaskState,
        result: bytes | None,
        change: Callable[..., Task | None],
    ) -> bool:
        """Record the end of a task by a function of ``transitions``."""

        def end(table: TaskTable) -> bool:
            ended = change(table.get(task.id), now=time.time())
            if ended is not None:
                table[task.id] = ended
                table.set_result(task.id, result)
            return ended is not None

        ended = await self._change(task_shard(task.id), [task.id], end)
        if ended and task.loop_channel:
            await self.post(task.loop_channel, end_notification(task, state))
        return ended

    async def revoke(self, task_ids: Sequence[str], reason: str) -> dict[str, str]:
        """Revoke or mark each task by its state, one shard after the other."""
        started = {}
        for shard, ids in by_shard(task_ids).items():

            def revoke(
                table: TaskTable, ids: Sequence[str] = ids
            ) -> list[tuple[Task | None, Task]]:
                changes = []
                for task_id in ids:
                    before = table.get(task_id)
                    after = transitions.revoke(before, task_id, reason, time.time())
                    table[task_id] = after
                    changes.append((before, after))
                return changes

            for before, after in await self._change(shard, ids, revoke):
                if after.state is TaskState.STARTED:
                    started[after.id] = after.worker
                elif after.loop_channel and transitions.has_ended(before, after):
                    await self.post(after.loop_channel, end_notification(after, after.state))
        return started

    async def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Read the shards of these tasks."""
        found = {}
        for shard, ids in by_shard(task_ids).items():
            found.update(await self._read(shard, ids))
        return {task_id: task for task_id, (task, _) in found.items()}

    async def beat(self, worker: Worker) -> list[str]:
        """Write the worker; read the tasks that it runs, and write only those that were lost."""
        now = time.time()

        def beat(record: Record) -> None:
            for worker_id, (written_at, *_newer) in list(record.items()):
                if written_at < now - KEEP_SECONDS:
                    del record[worker_id]
            record[worker.id] = [now, worker.dumps()]

        running = {each.id: each for each in worker.running}
        checks = [
            self._check_running(worker.id, shard, [running[task_id] for task_id in ids], now)
            for shard, ids in by_shard(list(running)).items()
        ]
        _, to_stop = await asyncio.gather(
            self._records.change(WORKERS, beat), asyncio.gather(*checks)
        )
        return [task_id for each in to_stop for task_id in each]

    async def _check_running(
        self, worker_id: str, shard: str, running: Sequence[Running], now: float
    ) -> list[str]:
        """Record again what a worker runs and whose record was lost; return what it must stop."""
        ids = [each.id for each in running]
        tasks = {task_id: task for task_id, (task, _) in (await self._read(shard, ids)).items()}
        lost = [each for each in running if transitions.record_was_lost(tasks.get(each.id), each)]

        def adopt(table: TaskTable) -> None:
            for each in lost:
                table[each.id] = transitions.adopt(table.get(each.id), each, worker_id, now)

        if lost:
            await self._change(shard, ids, adopt)
        known = [each for each in running if each not in lost]
        return [each.id for each in known if transitions.must_stop(tasks[each.id], each, worker_id)]

    async def deregister(self, worker_id: str) -> None:
        """Remove the worker."""
        await self._records.change(WORKERS, lambda record: record.pop(worker_id, None))

    async def workers(self) -> list[Worker]:
        """Read the workers, with the ages of their heartbeats as this process has seen them."""
        record = await self._records.read(WORKERS)
        written_at = {worker_id: at for worker_id, (at, *_newer) in record.items()}
        now = time.time()
        ages = self._heartbeats.ages(written_at, now, time.monotonic())
        found = [
            Worker.loads(text, ages[worker_id])
            for worker_id, (at, text, *_newer) in record.items()
            if now - at < KEEP_SECONDS
        ]
        return sorted(found, key=lambda worker: (worker.name, worker.id))

    async def post(self, channel: str, body: dict[str, Any]) -> None:
        """Send it to all readers of the channel, and retain a copy for later ones."""
        await self.connection.retry_if_lost(lambda: self._inbox.post(channel, body))

    async def collect(self, channel: str, after: str, timeout: float) -> list[Notification]:
        """Return what has been received here; the first time, what has been retained too."""
        return await self._inbox.collect(channel, after, timeout)

    async def close_channel(self, channel: str) -> None:
        """Delete what is retained, and receive no more here."""
        await self.connection.retry_if_lost(lambda: self._inbox.close(channel))

    async def load_result(self, task_id: str) -> bytes | None:
        """Read it where the record of its task is."""
        found = await self._read(task_shard(task_id), [task_id])
        _, result = found.get(task_id, (None, None))
        return result

    async def store_progress(self, task_id: str, progress: bytes) -> None:
        """Store it in a queue of its own. A record is written as a whole with all its tasks."""
        await self._progress.store(task_id, progress)

    async def load_progress(self, task_id: str) -> bytes | None:
        """Read it, if there is a record."""
        if task_id not in await self.tasks([task_id]):
            return None
        return await self._progress.load(task_id)

    async def forget(self, task_ids: Sequence[str]) -> None:
        """Remove the tasks from where they are, one shard after the other."""
        for shard, ids in by_shard(task_ids).items():
            moved_out: list[str] = []

            async def forget_moved_out(
                record: Record,
                shard: str = shard,
                ids: Sequence[str] = ids,
                moved_out: list[str] = moved_out,
            ) -> None:
                moved_out[:] = TaskTable(record).moved_out(ids)
                if moved_out:
                    await self._ended.forget(shard, record, moved_out)

            def forget(record: Record, ids: Sequence[str] = ids) -> list[Task]:
                table = TaskTable(record)
                known = [each for each in ids if each in table]
                return [table.pop(each) for each in known if transitions.may_forget(table[each])]

            forgotten = await self._records.change(shard, forget, Around(before=forget_moved_out))
            own = [task.id for task in forgotten if not task.run_id]
            for task_id in (*own, *moved_out):
                await self._progress.delete(task_id)

    async def _read(
        self, shard: str, task_ids: Sequence[str]
    ) -> dict[str, tuple[Task, bytes | None]]:
        """Return those of these tasks of one shard that are known, each with its result."""
        record = await self._records.read(shard)
        ended = self._ended.found_before(TaskTable(record).moved_out(task_ids))
        table = TaskTable(record, ended)
        if not table.moved_out(task_ids):
            return table.found(task_ids)
        # Only while nobody else can have taken the record, all are where they belong.
        ended = {}
        return await self._records.change(
            shard,
            lambda record: TaskTable(record, ended).found(task_ids),
            Around(before=self._look_up(shard, task_ids, ended)),
        )

    async def _change(self, shard: str, task_ids: Sequence[str], by: Callable[[TaskTable], T]) -> T:
        """Change tasks of one shard, whether they are in its record or have been moved out."""
        ended: dict[str, Fields | None] = {}

        def change(record: Record) -> T:
            table = TaskTable(record, ended)
            table.drop_expired(time.time(), self.settings.result_ttl)
            return by(table)

        around = Around(
            before=self._look_up(shard, task_ids, ended),
            after=partial(self._ended.move_out, shard),
        )
        return await self._records.change(shard, change, around)

    def _look_up(
        self, shard: str, task_ids: Sequence[str], ended: dict[str, Fields | None]
    ) -> Callable[[Record], Awaitable[None]]:
        """Return what puts those of these tasks into ``ended`` that were moved out of a record."""

        async def look_up(record: Record) -> None:
            ended.clear()
            await self._ended.declare(shard)
            moved_out = TaskTable(record).moved_out(task_ids)
            if moved_out:
                ended.update(await self._ended.find(shard, record, moved_out))

        return look_up
