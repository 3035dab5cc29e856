"""The backend on Redis or Valkey: a hash for each task, and a stream for each channel.

The rules of ``transitions`` are here in Lua scripts: each decides and writes in one step, so that
two workers, or a worker and a loop that gives its task up, never both succeed. The result backend
of taskiq-redis only writes results; here the result and the state change together.

The records of tasks do not expire by Redis itself: a server that evicts (``maxmemory-policy
volatile-*``) deletes keys that may expire long before their time, and a task whose start is not
recorded any more would be started again. A sorted set has the time at which each record may be
deleted, and workers sweep.
"""

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dagster_taskiq.errors import NoRecordError, NotPutBackYetError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.backend import KEEP_SECONDS, UNFINISHED_SECONDS, StateBackend
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.transport.messages import Outgoing
from dagster_taskiq.transport.redis.broker import SENDING, START_TASK, milliseconds, own_fields
from dagster_taskiq.transport.redis.connection import LONG_BLOCK_SECONDS, RedisConnection, Script
from dagster_taskiq.transport.redis.keys import Keys
from dagster_taskiq.transport.redis.schedule_store import RedisScheduleStore
from dagster_taskiq.wire.notifications import CHANNEL_LENGTH, FROM_START, Notification
from dagster_taskiq.wire.records import Task, TaskState, Worker, end_notification

_LUA = Path(__file__).with_name("lua") / "backend"
#: The file of each script.
SCRIPTS = {
    **{file.stem: Script(file) for file in sorted(_LUA.glob("*.lua"))},
    "start": Script(START_TASK, _LUA / "start.lua"),
    # It puts a message into its queue as well.
    "put_back": Script(*SENDING, _LUA / "put_back.lua"),
}

#: The fields of a record that are read together; a record without the first is none.
_FIELDS = (
    *("state", "submitted_at", "started_at", "finished_at", "revoke_requested", "attempt"),
    *("name", "queue", "run_id", "step_key", "worker", "error"),
)
#: How many tasks one call of a script handles; with more, other clients would have to wait.
CHUNK = 500


class RedisBackend(StateBackend):
    """A hash for each task, one for all workers, a stream for each channel."""

    puts_messages = True
    read_seconds = LONG_BLOCK_SECONDS

    def __init__(self, settings: Settings, connection: RedisConnection | None = None) -> None:
        super().__init__(settings)
        self.connection: RedisConnection = connection or RedisConnection(
            settings.backend_url, settings.options_of_backend, settings.connect_timeout
        )
        self._keys = Keys(settings.prefix)

    async def ping(self) -> None:
        """Ask the server."""
        await self.connection.ping()

    async def eviction(self) -> Eviction | None:
        """Ask the server."""
        return await self.connection.eviction()

    async def submitted(self, tasks: Sequence[Task]) -> None:
        """Set the hashes that are missing."""
        for first in range(0, len(tasks), CHUNK):
            chunk = tasks[first : first + CHUNK]
            keys = [self._keys.forget_times, *(self._keys.task(task.id) for task in chunk)]
            args: list[Any] = [UNFINISHED_SECONDS]
            for task in chunk:
                args += [task.id, task.name, task.queue, task.run_id, task.step_key, task.attempt]
            await self._script("submitted", keys, args)

    async def start(self, task: Task, *, recorded: bool = False) -> TaskState | None:
        """Run the start script; the client library repeats the call if the answer is lost."""
        args = [
            task.id,
            UNFINISHED_SECONDS,
            task.worker,
            task.name,
            task.queue,
            task.run_id,
            task.step_key,
            uuid.uuid4().hex,
            "1" if recorded else "",
            task.attempt,
        ]
        keys = [self._keys.task(task.id), self._keys.forget_times]
        state = await self._script("start", keys, args)
        if state == b"UNKNOWN":
            raise NoRecordError.of(task.id)
        if state == b"NOT PUT BACK":
            raise NotPutBackYetError.of(task.id)
        return TaskState(state.decode()) if state else None

    async def put_back(self, task: Task, message: Outgoing | None) -> bool:
        """Run the script that changes STARTED to WAITING and adds the message."""
        keys = [*self._keys.of_broker, self._keys.task(task.id), self._keys.forget_times]
        args: list[Any] = [task.id, task.worker, task.attempt, UNFINISHED_SECONDS]
        if message is not None:
            args += [message.queue, message.priority, message.body]
            args += [*own_fields(message), milliseconds(message.delay)]
        return bool(await self._script("put_back", keys, args))

    async def conclude(
        self, task: Task, state: TaskState, error: str, result: bytes | None
    ) -> bool:
        """Run the conclude script."""
        if task.run_id:
            return False
        keys = [self._keys.task(task.id), self._keys.forget_times]
        keys += [self._keys.result(task.id)] if result is not None else []
        keep = max(1, int(self.settings.result_ttl))
        args: list[Any] = [task.id, state.value, error, keep, result or b""]
        args += [task.name, task.queue, task.attempt]
        return bool(await self._script("conclude", keys, args))

    async def finish(self, task: Task, state: TaskState, error: str, result: bytes | None) -> bool:
        """Run the finish script."""
        keep = max(1, int(self.settings.result_ttl))
        keys = [
            self._keys.task(task.id),
            self._keys.forget_times,
            self._keys.notifications(task.loop_channel),
            *([self._keys.result(task.id)] if result is not None else []),
        ]
        notification = json.dumps(end_notification(task, state)) if task.loop_channel else ""
        args = [
            task.id,
            task.worker,
            state.value,
            error,
            keep,
            notification,
            KEEP_SECONDS,
            CHANNEL_LENGTH,
            result or b"",
            task.attempt,
        ]
        return bool(await self._script("finish", keys, args))

    async def revoke(self, task_ids: Sequence[str], reason: str) -> dict[str, str]:
        """Run the revoke script for each."""
        keep = max(1, int(self.settings.result_ttl))
        started = {}
        for task_id in task_ids:
            keys = [self._keys.task(task_id), self._keys.forget_times]
            state, worker, run_id, step_key = await self._script(
                "revoke", keys, [task_id, reason, keep]
            )
            if state == TaskState.STARTED.value.encode():
                started[task_id] = worker.decode()
            elif state == TaskState.WAITING.value.encode():
                task = Task(task_id, run_id=run_id.decode(), step_key=step_key.decode())
                if task.loop_channel:
                    await self.post(task.loop_channel, end_notification(task, TaskState.REVOKED))
        return started

    async def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Get the fields of one hash; of several, run the tasks script."""
        found = {}
        for first in range(0, len(task_ids), CHUNK):
            chunk = list(task_ids[first : first + CHUNK])
            for task_id, values in zip(chunk, await self._fields(chunk), strict=True):
                if values[0]:
                    found[task_id] = _task(task_id, values)
        return found

    async def _fields(self, task_ids: Sequence[str]) -> list[list[str]]:
        """Return the values of the ``_FIELDS`` of each record; false ones that are not there."""
        keys = [self._keys.task(each) for each in task_ids]
        if len(keys) > 1:
            rows: list[list[str]] = json.loads(await self._script("tasks", keys, [*_FIELDS]))
            return rows
        values = await self.connection.command("HMGET", keys[0], *_FIELDS)
        return [[value.decode() if value else "" for value in values]]

    async def beat(self, worker: Worker) -> list[str]:
        """Run the beat script."""
        keys = [self._keys.workers, self._keys.worker_bodies, self._keys.forget_times]
        args: list[Any] = [worker.id, worker.dumps(), UNFINISHED_SECONDS]
        for each in worker.running:
            keys.append(self._keys.task(each.id))
            args += [each.id, each.name, each.run_id, each.step_key, each.attempt]
        return [task_id.decode() for task_id in await self._script("beat", keys, args)]

    async def deregister(self, worker_id: str) -> None:
        """Remove the worker from both."""
        async with self.connection.pipeline(transaction=True) as pipeline:
            pipeline.zrem(self._keys.workers, worker_id)
            pipeline.hdel(self._keys.worker_bodies, worker_id)
            await pipeline.execute()

    async def workers(self) -> list[Worker]:
        """Read both, and the server's clock, by which heartbeats are recorded.

        A worker that beats, comes or ends in between is as it was before or after that.
        """
        async with self.connection.pipeline() as pipeline:
            pipeline.time()
            pipeline.zrange(self._keys.workers, 0, -1, withscores=True)
            pipeline.hgetall(self._keys.worker_bodies)
            (seconds, micros), beats, bodies = await pipeline.execute()
        now = seconds + micros / 1e6
        found = [
            Worker.loads(bodies[worker_id], max(0.0, now - beat_at))
            for worker_id, beat_at in beats
            if worker_id in bodies and now - beat_at < KEEP_SECONDS
        ]
        return sorted(found, key=lambda worker: (worker.name, worker.id))

    async def post(self, channel: str, body: dict[str, Any]) -> None:
        """Add to the stream of the channel."""
        key = self._keys.notifications(channel)
        async with self.connection.pipeline() as pipeline:
            pipeline.xadd(key, {"body": json.dumps(body)}, maxlen=CHANNEL_LENGTH, approximate=True)
            pipeline.expire(key, KEEP_SECONDS)
            await pipeline.execute()

    async def collect(self, channel: str, after: str, timeout: float) -> list[Notification]:
        """Read the stream of the channel; wait if nothing is new."""
        cursor = after if after != FROM_START else "0-0"
        key = self._keys.notifications(channel)
        found = []
        for entry_id, fields in await self.connection.read_stream(key, cursor, timeout):
            by_name = dict(zip(fields[::2], fields[1::2], strict=True))
            found.append(Notification(entry_id.decode(), json.loads(by_name[b"body"])))
        return found

    async def close_channel(self, channel: str) -> None:
        """Delete the stream."""
        await self.connection.command("UNLINK", self._keys.notifications(channel))

    async def load_result(self, task_id: str) -> bytes | None:
        """Get the result."""
        result = await self.connection.command("GET", self._keys.result(task_id))
        return result if isinstance(result, bytes) else None

    async def store_progress(self, task_id: str, progress: bytes) -> None:
        """Set a field of the hash, if there is one."""
        await self._script("progress", [self._keys.task(task_id)], [progress])

    async def load_progress(self, task_id: str) -> bytes | None:
        """Get the field."""
        progress = await self.connection.command("HGET", self._keys.task(task_id), "progress")
        return progress if isinstance(progress, bytes) else None

    async def forget(self, task_ids: Sequence[str]) -> None:
        """Run the forget script."""
        for first in range(0, len(task_ids), CHUNK):
            chunk = task_ids[first : first + CHUNK]
            keys = [self._keys.forget_times]
            for task_id in chunk:
                keys += [self._keys.task(task_id), self._keys.result(task_id)]
            await self._script("forget", keys, list(chunk))

    async def sweep(self) -> None:
        """Run the sweep script until nothing is due."""
        keys = [self._keys.forget_times, self._keys.task(""), self._keys.result("")]
        keys += [self._keys.workers, self._keys.worker_bodies]
        while await self._script("sweep", keys, [CHUNK, KEEP_SECONDS]) == CHUNK:
            pass

    def schedule_store(self) -> RedisScheduleStore:
        """See the base class."""
        return RedisScheduleStore(self.connection, self._keys)

    async def _script(self, name: str, keys: list[str], args: list[Any]) -> Any:
        return await self.connection.script(SCRIPTS[name], keys, args)


def _task(task_id: str, values: Sequence[str]) -> Task:
    """Return the record with these values of the ``_FIELDS``."""
    state, submitted_at, started_at, finished_at, revoke_requested, attempt, *texts = values
    name, queue, run_id, step_key, worker, error = (text or "" for text in texts)
    return Task(
        id=task_id,
        name=name,
        queue=queue,
        run_id=run_id,
        step_key=step_key,
        state=TaskState(state),
        worker=worker,
        submitted_at=float(submitted_at or 0),
        started_at=float(started_at or 0),
        finished_at=float(finished_at or 0),
        error=error,
        revoke_requested=revoke_requested == "1",
        attempt=int(attempt or 0),
    )
