"""The progress of tasks, each in a queue of its own that expires."""

import asyncio
import time
from contextlib import suppress

from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.errors import UnroutableError
from dagster_taskiq.transport.rabbitmq.names import Names

#: How long to try to read a value that another process reads at the same moment, in seconds: the
#: pause between two tries, and in total.
READ_SECONDS = (0.005, 8.0)


class Progress:
    """The progress of each task that has set one."""

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

    async def store(self, task_id: str, progress: bytes) -> None:
        """Store the progress of a task, in place of an earlier one."""
        queue = self._names.progress(task_id)
        arguments = {"x-expires": self._keep_milliseconds, "x-max-length": 1}

        async def work() -> None:
            async with self._connection.channel() as channel:
                while True:
                    # Each time: this makes the queue stay for longer, which a message does not.
                    await channel.declare_queue(queue, arguments=arguments)
                    # A short-lived queue may expire before the value is in it.
                    with suppress(UnroutableError):
                        return await channel.publish(queue, progress)

        await self._connection.retry_if_lost(work)

    async def load(self, task_id: str) -> bytes | None:
        """Return the progress of a task; ``None`` if there is none, or none any more."""
        queue = self._names.progress(task_id)
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

    async def delete(self, task_id: str) -> None:
        """Delete the progress of a task, if there is one."""
        async with self._connection.channel() as channel:
            await channel.delete_queue(self._names.progress(task_id))
