"""The results of tasks, each in a queue of its own that expires."""

import asyncio
import time
from contextlib import suppress

from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.errors import UnroutableError
from dagster_taskiq.transport.rabbitmq.names import Names
from dagster_taskiq.wire.records import Task, TaskState

#: How long to try to read a result that another process reads at the same moment, in seconds: the
#: pause between two tries, and in total.
READ_SECONDS = (0.005, 8.0)


class Results:
    """Results by task and worker."""

    def __init__(self, connection: RabbitConnection, names: Names, keep_seconds: float) -> None:
        """Prepare; nothing is sent yet.

        Args:
            connection: to the server.
            names: the names under the prefix.
            keep_seconds: how long a result is kept after it was stored or last read.
        """
        self._connection = connection
        self._names = names
        self._keep_milliseconds = max(1000, int(keep_seconds * 1000))

    async def store(self, task: Task, result: bytes) -> None:
        """Store the result of a task that ``task.worker`` has executed."""
        queue = self._names.result(task.id, task.worker)
        arguments = {"x-expires": self._keep_milliseconds, "x-max-length": 1}

        async def work() -> None:
            async with self._connection.channel() as channel:
                while True:
                    await channel.declare_queue(queue, arguments=arguments)
                    # A short-lived queue may expire before the result is in it.
                    with suppress(UnroutableError):
                        return await channel.publish(queue, result)

        await self._connection.retry_if_lost(work)

    async def load(self, task: Task) -> bytes | None:
        """Return the result of a task; ``None`` if there is none, or none any more."""
        queue = self._names.result(task.id, task.worker)
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

    async def delete(self, task: Task) -> None:
        """Delete the result of a task, if there is one."""
        async with self._connection.channel() as channel:
            await channel.delete_queue(self._names.result(task.id, task.worker))


def may_have_result(task: Task) -> bool:
    """Whether a task has ended in a state in which its worker may have stored a result."""
    return task.state in (TaskState.SUCCESS, TaskState.FAILURE)
