"""The messages that were set aside: they can be looked at, and are never executed."""

from dagster_taskiq.transport.messages import Delivery
from dagster_taskiq.transport.rabbitmq.channel import Channel
from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.messages import TASK_ID_HEADER
from dagster_taskiq.transport.rabbitmq.names import Names

#: How many are kept: the last ones.
REJECTED_LIMIT = 1000


class Rejected:
    """The queue of the messages that were set aside."""

    def __init__(self, connection: RabbitConnection, names: Names) -> None:
        self._connection = connection
        self._queue = names.rejected

    async def add(self, delivery: Delivery, reason: str) -> None:
        """Store a copy of a message, with its queue and the reason in its headers."""
        headers = {TASK_ID_HEADER: delivery.task_id, "queue": delivery.queue, "reason": reason}
        async with self._connection.channel() as channel:
            await self._declare(channel)
            await channel.publish(self._queue, delivery.body, headers=headers)

    async def count(self) -> int:
        """Return how many there are."""
        async with self._connection.channel() as channel:
            return await self._declare(channel)

    async def _declare(self, channel: Channel) -> int:
        return await channel.declare_queue(self._queue, arguments={"x-max-length": REJECTED_LIMIT})
