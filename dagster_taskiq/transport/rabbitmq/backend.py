"""The backend on RabbitMQ itself, ``rpc://``: the state of tasks and workers, and notifications.

Celery's backend of that name answers only the process that has sent a task. Here the state of every
task and worker is part of a record on the server (see ``records``) that any process may read and
change, also when the process that wrote it has ended.

AMQP has no clock that could be asked: times are those of the process that writes.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import transitions
from dagster_taskiq.transport.backend import KEEP_SECONDS, StateBackend
from dagster_taskiq.transport.broker import Outgoing
from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.heartbeats import Heartbeats
from dagster_taskiq.transport.rabbitmq.inbox import Inbox
from dagster_taskiq.transport.rabbitmq.names import Names
from dagster_taskiq.transport.rabbitmq.records import WORKERS, Record, records_of, task_shard
from dagster_taskiq.transport.rabbitmq.results import Results, may_have_result
from dagster_taskiq.transport.rabbitmq.task_table import TaskTable, by_shard
from dagster_taskiq.wire.notifications import Notification
from dagster_taskiq.wire.records import Running, Task, TaskState, Worker, end_notification


class RabbitBackend(StateBackend):
    """Records for tasks and workers; queues that expire for results and notifications."""

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
        self._results = Results(self.connection, names, settings.result_ttl)
        self._inbox = Inbox(self.connection, names)
        self._heartbeats = Heartbeats()

    async def ping(self) -> None:
        """Ask the server."""
        await self.connection.ping()

    async def submitted(self, tasks: Sequence[Task]) -> None:
        """Add the tasks that are missing, one shard after the other."""
        for shard, ids in by_shard([task.id for task in tasks]).items():
            in_shard = [task for task in tasks if task.id in ids]

            def submit(record: Record, in_shard: Sequence[Task] = in_shard) -> None:
                table = self._table(record)
                for task in in_shard:
                    known = table.get(task.id)
                    table[task.id] = transitions.submit(known, task, time.time())

            await self._records.change(shard, submit)

    async def start(self, task: Task, *, recorded: bool = False) -> TaskState | None:
        """Change WAITING to STARTED."""

        def start(record: Record) -> TaskState | None:
            table = self._table(record)
            known = table.get(task.id)
            started, refused = transitions.start(known, task, time.time(), recorded=recorded)
            table[task.id] = started
            return refused

        return await self._records.change(task_shard(task.id), start)

    async def put_back(self, task: Task, message: Outgoing | None) -> bool:
        """Change STARTED to WAITING. No transaction has both a record and a message."""

        def put_back(record: Record) -> bool:
            table = self._table(record)
            waiting = transitions.put_back(table.get(task.id), task, time.time())
            if waiting is not None:
                table[task.id] = waiting
            return waiting is not None

        return await self._records.change(task_shard(task.id), put_back)

    async def conclude(
        self, task: Task, state: TaskState, error: str, result: bytes | None
    ) -> bool:
        """Change WAITING to a final state, or add the record; as :meth:`finish`."""
        task = replace(task, worker="")
        known = (await self.tasks([task.id])).get(task.id)
        # Else the result would take the place of the one that the task has.
        if transitions.conclude(known, task, state, error, time.time()) is None:
            return False
        change = partial(transitions.conclude, task=task, state=state, error=error)
        return await self._end(task, state, result, change)

    async def finish(self, task: Task, state: TaskState, error: str, result: bytes | None) -> bool:
        """Change STARTED to a final state.

        The result is stored before that, under a name that is looked for only if this worker has
        ended the task.
        """
        change = partial(transitions.finish, task=task, state=state, error=error)
        return await self._end(task, state, result, change)

    async def _end(
        self,
        task: Task,
        state: TaskState,
        result: bytes | None,
        change: Callable[..., Task | None],
    ) -> bool:
        """Store a result, and record the end of its task by a function of ``transitions``."""
        if result is not None:
            await self._results.store(task, result)

        def end(record: Record) -> bool:
            table = self._table(record)
            ended = change(table.get(task.id), now=time.time())
            if ended is not None:
                table[task.id] = ended
            return ended is not None

        ended = await self._records.change(task_shard(task.id), end)
        if ended and task.loop_channel:
            await self.post(task.loop_channel, end_notification(task, state))
        if not ended and result is not None and not await self._has_ended(task):
            await self._results.delete(task)
        return ended

    async def _has_ended(self, task: Task) -> bool:
        """Whether the task has been ended by this worker, in an earlier attempt that was made, but
        whose answer was lost.
        """
        known = (await self.tasks([task.id])).get(task.id)
        return known is not None and may_have_result(known) and known.worker == task.worker

    async def revoke(self, task_ids: Sequence[str], reason: str) -> dict[str, str]:
        """Revoke or mark each task by its state, one shard after the other."""
        started = {}
        for shard, ids in by_shard(task_ids).items():

            def revoke(record: Record, ids: Sequence[str] = ids) -> list[tuple[Task | None, Task]]:
                table = self._table(record)
                changes = []
                for task_id in ids:
                    before = table.get(task_id)
                    after = transitions.revoke(before, task_id, reason, time.time())
                    table[task_id] = after
                    changes.append((before, after))
                return changes

            for before, after in await self._records.change(shard, revoke):
                if after.state is TaskState.STARTED:
                    started[after.id] = after.worker
                elif after.loop_channel and transitions.has_ended(before, after):
                    await self.post(after.loop_channel, end_notification(after, after.state))
        return started

    async def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Read the shards of these tasks."""
        found = {}
        for shard, ids in by_shard(task_ids).items():
            table = TaskTable(await self._records.read(shard))
            found.update({task_id: table[task_id] for task_id in ids if task_id in table})
        return found

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
        table = TaskTable(await self._records.read(shard))
        lost = [each for each in running if transitions.record_was_lost(table.get(each.id), each)]

        def adopt(record: Record) -> None:
            found = TaskTable(record)
            for each in lost:
                found[each.id] = transitions.adopt(found.get(each.id), each, worker_id, now)

        if lost:
            await self._records.change(shard, adopt)
        known = [each for each in running if each not in lost]
        return [each.id for each in known if transitions.must_stop(table[each.id], each, worker_id)]

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
        """Read the result from its queue, if the task has ended in a state that has one."""
        task = (await self.tasks([task_id])).get(task_id)
        if task is None or not may_have_result(task):
            return None
        return await self._results.load(task)

    async def store_progress(self, task_id: str, progress: bytes) -> None:
        """Store it in a queue of its own. A record is written as a whole with all its tasks."""
        await self._results.store_progress(task_id, progress)

    async def load_progress(self, task_id: str) -> bytes | None:
        """Read it, if there is a record."""
        if task_id not in await self.tasks([task_id]):
            return None
        return await self._results.load_progress(task_id)

    async def forget(self, task_ids: Sequence[str]) -> None:
        """Remove the tasks from their shards, and then delete their results."""
        for shard, ids in by_shard(task_ids).items():

            def forget(record: Record, ids: Sequence[str] = ids) -> list[Task]:
                table = self._table(record)
                return [table.pop(each) for each in ids if transitions.may_forget(table.get(each))]

            for task in await self._records.change(shard, forget):
                if may_have_result(task):
                    await self._results.delete(task)
                if not task.run_id:
                    await self._results.delete_progress(task.id)

    def _table(self, record: Record) -> TaskTable:
        """Return the tasks of a shard that is about to be changed, without those that expired."""
        table = TaskTable(record)
        table.drop_expired(time.time(), self.settings.result_ttl)
        return table
