"""Sending: each message is published to its queue, and confirmed when the server has it on disk."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from dagster_taskiq.transport.messages import Outgoing
from dagster_taskiq.transport.rabbitmq import delays, messages
from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.errors import UnroutableError
from dagster_taskiq.transport.rabbitmq.queues import Queues
from dagster_taskiq.transport.rabbitmq.wakeups import WakeUps

#: Of how many messages it is remembered which queue they were sent to.
REMEMBERED = 10_000


class SentMessages:
    """Where the last messages that this process has sent are, or were."""

    def __init__(self) -> None:
        self._places: OrderedDict[str, tuple[str, bool]] = OrderedDict()

    def add(self, task_id: str, queue: str, delayed: bool) -> None:
        """Note where a message was sent; the oldest one is forgotten if there are too many."""
        self._places[task_id] = (queue, delayed)
        if len(self._places) > REMEMBERED:
            self._places.popitem(last=False)

    def pop(self, task_id: str) -> tuple[str, bool] | None:
        """Return the queue of a message and whether it was delayed, and forget it; ``None`` if it
        is not known.
        """
        return self._places.pop(task_id, None)


class Sender:
    """Publishes messages."""

    def __init__(self, connection: RabbitConnection, queues: Queues, wakeups: WakeUps) -> None:
        self.sent = SentMessages()
        self._connection = connection
        self._queues = queues
        self._wakeups = wakeups

    async def send(self, outgoing: Sequence[Outgoing]) -> None:
        """Publish messages in this order, wake listeners, and return when all are confirmed.

        Raises:
            ConfigError: a delay is too long, or a queue cannot be declared; nothing was sent.
            ServerUnavailableError: the server does not answer; some of them may have been sent.
        """
        units = [delays.units_of(each.delay) for each in outgoing]

        async def work() -> None:
            await self._publish(outgoing, units)

        try:
            await self._connection.retry_if_lost(work)
        except UnroutableError:  # a queue has been deleted since it was declared
            await self._queues.forget_declared(each.queue for each in outgoing)
            await work()
        for each in outgoing:
            self.sent.add(each.task_id, each.queue, each.delay > 0)

    async def _publish(self, outgoing: Sequence[Outgoing], units: Sequence[int]) -> None:
        async with self._connection.channel() as channel:
            routes = [
                await self._queues.declare_route(channel, each.queue, delay)
                for each, delay in zip(outgoing, units, strict=True)
            ]
            # Before anything is sent: if it fails, the channel is closed, with what goes on there.
            await self._wakeups.declare_exchange(channel)
            at_once = {each.queue for each, delay in zip(outgoing, units, strict=True) if not delay}
            # In this order, but without waiting for the confirmation of the one before. The server
            # has a message in its queue before it passes on the wake-up that is sent after it.
            await asyncio.gather(
                *(
                    messages.publish(channel, *route, each)
                    for route, each in zip(routes, outgoing, strict=True)
                ),
                *(self._wakeups.send(channel, queue) for queue in at_once),
            )
