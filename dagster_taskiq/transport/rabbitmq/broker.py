"""The broker on RabbitMQ: a durable priority queue for each queue, and one for its runs.

taskiq-aio-pika's broker has messages pushed to it, several for each slot, which then wait while
other workers are idle; and a message stays unacknowledged while its task runs, so that the server
delivers it again after its ``consumer_timeout``, half an hour by default. Here a worker takes one
message when a slot is free (``basic.get``), and acknowledges it when the task is recorded as
started.

Delayed messages wait in queues of their own (see ``delays``), from which the server passes them on
when they are due.
"""

from collections.abc import Sequence

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.message_queues import Prepare
from dagster_taskiq.transport.messages import Delivery, Outgoing
from dagster_taskiq.transport.rabbitmq.attempts import Attempts
from dagster_taskiq.transport.rabbitmq.claims import Claims
from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.names import Names
from dagster_taskiq.transport.rabbitmq.queues import Queues
from dagster_taskiq.transport.rabbitmq.records import records_of
from dagster_taskiq.transport.rabbitmq.rejected import Rejected
from dagster_taskiq.transport.rabbitmq.sending import Sender
from dagster_taskiq.transport.rabbitmq.waiting import WaitingMessages
from dagster_taskiq.transport.rabbitmq.wakeups import WakeUps
from dagster_taskiq.wire.queues import QueueDepth
from dagster_taskiq.wire.rejected_messages import RejectedMessage


class RabbitBroker(QueueBroker):
    """Queues of the server, read one message at a time when a wake-up has come."""

    def __init__(self, settings: Settings, connection: RabbitConnection | None = None) -> None:
        """Prepare; nothing is connected yet.

        Args:
            settings: whose ``broker`` names the server.
            connection: one to share; by default one of its own.
        """
        super().__init__(settings)
        self.connection: RabbitConnection = connection or RabbitConnection(
            settings.broker, settings.broker_options, settings.connect_timeout, settings.lease
        )
        names = Names(settings.prefix)
        records = records_of(self.connection, settings.prefix)
        queues = Queues(self.connection, records, names)
        wakeups = WakeUps(self.connection, names)
        sender = Sender(self.connection, queues, wakeups)
        self._queues = queues
        self._wakeups = wakeups
        self._sender = sender
        self._claims = Claims(self.connection, names, queues, wakeups, Attempts(records))
        self._rejected = Rejected(self.connection, names, sender)
        self._waiting = WaitingMessages(self.connection, names, queues, wakeups, sender.sent)

    async def ping(self) -> None:
        """Ask the server; in a worker, declare its queues too, so that a refusal ends its start."""
        await self.connection.ping()
        if self.is_worker_process:
            async with self.connection.channel() as channel:
                for queue in self.all_queues:
                    await self._queues.declare(channel, queue)

    async def put_all(self, messages: Sequence[Outgoing]) -> None:
        """Publish, and wait until the server has the messages on disk."""
        await self._sender.send(messages)

    async def claim(self) -> Delivery | None:
        """Take the first message of all open queues."""
        self._wakeups.idle.ask_all()
        return await self.claim_next()

    async def claim_next(self) -> Delivery | None:
        """Take the first message of the open queues that are not known to be empty."""
        return await self._claims.take(self.open_queues)

    async def wait_for_work(self, timeout: float) -> None:
        """Wait for a wake-up; the first call subscribes to those of all queues, and returns."""
        await self._wakeups.wait(self.all_queues, self.consumer, timeout)

    async def acknowledge(self, delivery: Delivery) -> None:
        """Have the server delete the message."""
        await self._claims.acknowledge(delivery)

    async def release(self, delivery: Delivery) -> None:
        """Have the server requeue the message."""
        await self._claims.release(delivery)

    async def reject(self, delivery: Delivery, reason: str) -> None:
        """Move the message to the queue of rejected messages, which keeps the last thousand."""
        claim = self._claims.pop(delivery)
        if claim is not None:
            level = claim.message.header.properties.priority
            await self._rejected.add(delivery, reason, level)
            await self._claims.delete(claim, delivery.task_id)

    async def discard(self, task_ids: Sequence[str]) -> int:
        """Search the queues that the messages may be in, and delete what is found."""
        return await self._waiting.discard(task_ids)

    async def depths(self) -> list[QueueDepth]:
        """Ask for each queue that was ever used, and for the age of its first message."""
        return await self._waiting.depths()

    async def is_empty(self, queue: str) -> bool:
        """Ask for this queue alone; messages that are claimed are not counted."""
        return await self._waiting.is_empty(queue)

    async def rejected(self) -> int:
        """Ask for the length of the queue of rejected messages."""
        return await self._rejected.count()

    async def list_rejected(self, limit: int) -> list[RejectedMessage]:
        """Take the first of them, and give them back."""
        return await self._rejected.first(limit)

    async def requeue_rejected(self, ids: Sequence[str], prepare: Prepare) -> list[str]:
        """Publish copies to their queues, and delete the messages that were set aside then."""
        return await self._rejected.requeue(ids, prepare)

    async def delete_rejected(self, ids: Sequence[str]) -> list[str]:
        """Take them, and acknowledge them."""
        return await self._rejected.delete(ids)
