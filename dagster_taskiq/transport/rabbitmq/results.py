"""The results and the progress of tasks, each in a queue of its own that expires."""

import asyncio
import time
from contextlib import suppress

from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.errors import UnroutableError
from dagster_taskiq.transport.rabbitmq.names import Names
from dagster_taskiq.wire.records import Task, TaskState

#: How long to try to read a value that another process reads at the same moment, in seconds: the
#: pause between two tries, and in total.
READ_SECONDS = (0.005, 8.0)


class Results:
    """Results by task and worker, and the progress of each task."""

    def __init__(self, connection: RabbitConnection, names: Names, keep_seconds: float) -> None:
        """Prepare; nothing is sent yet.

        Args:
            connection: to the server.
            names: the names under the prefix.
            keep_seconds: how long a value is kept after it was stored or last read.
        """
        self._connection = connection
        self._names = names
        self._keep_milliseconds = max(1000, int(keep_seconds * 1000))

    async def store(self, task: Task, result: bytes) -> None:
        """Store the result of a task that ``task.worker`` has executed."""
        await self._store(self._names.result(task.id, task.worker), result)

    async def load(self, task: Task) -> bytes | None:
        """Return the result of a task; ``None`` if there is none, or none any more."""
        return await self._load(self._names.result(task.id, task.worker))

    async def delete(self, task: Task) -> None:
        """Delete the result of a task, if there is one."""
        await self._delete(self._names.result(task.id, task.worker))

    async def store_progress(self, task_id: str, progress: bytes) -> None:
        """Store the progress of a task, in place of an earlier one."""
        await self._store(self._names.progress(task_id), progress)

    async def load_progress(self, task_id: str) -> bytes | None:
        """Return the progress of a task; ``None`` if there is none, or none any more."""
        return await self._load(self._names.progress(task_id))

    async def delete_progress(self, task_id: str) -> None:
        """Delete the progress of a task, if there is one."""
        await self._delete(self._names.progress(task_id))

    async def _store(self, queue: str, value: bytes) -> None:
        arguments = {"x-expires": self._keep_milliseconds, "x-max-length": 1}

        async def work() -> None:
            async with self._connection.channel() as channel:
                while True:
                    # Each time: this makes the queue stay for longer, which a message does not.
                    await channel.declare_queue(queue, arguments=arguments)
                    # A short-lived queue may expire before the value is in it.
                    with suppress(UnroutableError):
                        return await channel.publish(queue, value)

        await self._connection.retry_if_lost(work)

    async def _load(self, queue: str) -> bytes | None:
        pause, limit = READ_SECONDS
        deadline = time.monotonic() + limit

        async def look() -> bytes | None:
            async with self._connection.channel() as channel:
                message = await channel.get(queue)
                if message is not None:
                    await channel.requeue(message)
                return message.body if message else None

        while await self._connection.count_ready(queue) is not None:
            body = await self._connection.retry_if_lost(look)
            if body is not None or time.monotonic() > deadline:
                return body
            await asyncio.sleep(pause)  # another process is reading it
        return None

    async def _delete(self, queue: str) -> None:
        async with self._connection.channel() as channel:
            await channel.delete_queue(queue)


def may_have_result(task: Task) -> bool:
    """Whether a task has ended in a state in which its worker may have stored a result."""
    return task.state in (TaskState.SUCCESS, TaskState.FAILURE)
