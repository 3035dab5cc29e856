"""What waits in the queues: counted, dated, and searched for messages to delete."""

import time
from collections.abc import Sequence

from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelNotFoundEntity

from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.messages import sent_at, task_id_of
from dagster_taskiq.transport.rabbitmq.names import Names
from dagster_taskiq.transport.rabbitmq.queues import Queues
from dagster_taskiq.transport.rabbitmq.sending import SentMessages
from dagster_taskiq.transport.rabbitmq.wakeups import WakeUps
from dagster_taskiq.wire.queues import QueueDepth

#: A queue with more messages is not searched: they would be kept from the workers meanwhile. Those
#: that were to be deleted are dropped when a worker claims them.
SEARCH_LIMIT = 1000


class WaitingMessages:
    """The messages in all queues and delay queues."""

    def __init__(
        self,
        connection: RabbitConnection,
        names: Names,
        queues: Queues,
        wakeups: WakeUps,
        sent: SentMessages,
    ) -> None:
        self._connection = connection
        self._names = names
        self._queues = queues
        self._wakeups = wakeups
        self._sent = sent

    async def depths(self) -> list[QueueDepth]:
        """Return the queues that hold messages, by name; ask for each that was ever used."""
        rows = []
        for queue, levels in sorted((await self._queues.used()).items()):
            names = self._queues.on_server(queue, levels)
            counts = [await self._connection.count_ready(each) for each in names]
            waiting = sum(count or 0 for count in counts)
            if waiting:
                age = await self._oldest_age(queue) if counts[-1] else 0.0
                rows.append(QueueDepth(queue, waiting, None, age))
        return rows

    async def is_empty(self, queue: str) -> bool:
        """Return whether a queue holds no message; those that are claimed are not counted."""
        levels = (await self._queues.used()).get(queue, [])
        for each in self._queues.on_server(queue, levels):
            if await self._connection.count_ready(each):
                return False
        return True

    async def discard(self, task_ids: Sequence[str]) -> int:
        """Delete messages that wait; return how many there were.

        If this process has sent all of them, only their own queues are searched, else all queues.
        """
        if not task_ids:
            return 0
        searched = await self._where(task_ids)
        found = 0
        for queue in sorted(searched):
            for name in self._queues.on_server(queue, searched[queue]):
                found += await self._discard_from(name, queue, set(task_ids))
        return found

    async def _where(self, task_ids: Sequence[str]) -> dict[str, list[int]]:
        """Return the queues in which messages may be, with the levels of delay to search."""
        places = [self._sent.pop(task_id) for task_id in task_ids]
        known = {place for place in places if place is not None}
        if None in places:
            return await self._queues.used()
        if any(delayed for _, delayed in known):
            used = await self._queues.used()
            return {queue: used.get(queue, []) for queue, _ in known}
        return {queue: [] for queue, _ in known}

    async def _oldest_age(self, queue: str) -> float:
        """Return how many seconds ago the first message of a queue was sent, or was due."""
        async with self._connection.channel() as channel:
            head = await channel.get(self._names.queue(queue))
            if head is None:
                return 0.0
            await channel.requeue(head)
            await self._wakeups.send(channel, queue)
        return max(0.0, time.time() - sent_at(head))

    async def _discard_from(self, name: str, queue: str, task_ids: set[str]) -> int:
        """Take all messages of a queue on the server, delete some, and requeue the others."""
        found = 0
        try:
            async with self._connection.channel() as channel:
                count = await channel.declare_queue(name, passive=True)
                if count > SEARCH_LIMIT:
                    return 0
                last: DeliveredMessage | None = None
                for _ in range(count):
                    message = await channel.get(name)
                    if message is None:
                        break
                    if task_id_of(message) in task_ids:
                        await channel.ack(message)
                        found += 1
                    else:
                        last = message
                if last is not None:
                    await channel.requeue(last, and_all_before=True)
                    await self._wakeups.send(channel, queue)
        except ChannelNotFoundEntity:  # nothing was sent to it yet, or it has been deleted
            pass
        return found
