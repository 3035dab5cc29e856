"""Celery's queues on a RabbitMQ."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from anyio.from_thread import BlockingPortal

from dagster_celery._upgrade.left_queues import KEPT, LeftMessage, QueueCount
from dagster_celery._upgrade.messages import CeleryMessage, read
from dagster_celery._upgrade.servers import CeleryServers
from dagster_taskiq.transport.rabbitmq.channel import Channel
from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.foreign_messages import ForeignMessage, read_foreign

#: The header of a kept message that names the queue of Celery's that it was in.
_QUEUE_HEADER = "dagster-taskiq-celery-queue"


class AmqpQueues:
    """Celery's queues on one RabbitMQ; see :class:`LeftQueues`.

    What a worker has taken and not acknowledged cannot be seen by AMQP. It is in the queue again as
    soon as the worker's connection is closed, so it is nothing once the queue has no consumers.
    """

    def __init__(self, servers: CeleryServers, portal: BlockingPortal) -> None:
        """Connect to nothing yet.

        Args:
            servers: where the queues are.
            portal: runs coroutines.
        """
        settings = servers.settings
        self.kept_queue = f"{settings.prefix}:{KEPT}"
        self.connection = RabbitConnection(
            settings.broker, settings.broker_options, settings.connect_timeout
        )
        self.portal = portal

    def open(self) -> None:
        """Connect.

        Raises:
            ServerUnavailableError: it does not answer.
            ConfigError: it does not let us in, or an option is wrong.
        """
        self.portal.call(self.connection.open)
        self.portal.call(self.connection.ping)

    def close(self) -> None:
        """Disconnect; what was taken and not acknowledged is in its queue again."""
        self.portal.call(self.connection.close)

    def count(self, queues: Sequence[str]) -> list[QueueCount]:
        """See :meth:`LeftQueues.count`."""
        counts = []
        for queue in queues:
            ready, consumers = self.portal.call(self.connection.count, queue) or (0, 0)
            counts.append(QueueCount(queue, ready, None if consumers else 0, consumers))
        return counts

    def consumers(self, queues: Sequence[str]) -> str:
        """See :meth:`LeftQueues.consumers`."""
        consumed = [each for each in self.count(queues) if each.consumers]
        return ", ".join(f'{each.consumers} of queue "{each.queue}"' for each in consumed)

    def traces(self, queues: Sequence[str]) -> bool:
        """See :meth:`LeftQueues.traces`."""
        return any(self.portal.call(self.connection.count, queue) for queue in queues)

    @contextmanager
    def scan(self, queue: str) -> Iterator[Iterator[LeftMessage]]:
        """See :meth:`LeftQueues.scan`: what stays is back in its place when the context ends."""
        if self.portal.call(self.connection.count, queue) is None:
            yield iter(())
            return
        self._declare_kept()
        with self._transactions() as channel:
            entries: list[_Entry] = []
            yield self._scan(channel, queue, entries)
            left = [entry for entry in entries if not entry.is_gone]
            if left:
                delivered = left[-1].taken.delivered
                self.portal.call(channel.requeue, delivered, True)
                self.portal.call(channel.commit)

    def kept(self) -> list[CeleryMessage]:
        """See :meth:`LeftQueues.kept`."""
        return [_read(taken, "") for taken in self._look_at_kept(())]

    def forget(self, messages: Collection[CeleryMessage]) -> None:
        """See :meth:`LeftQueues.forget`: all messages are looked at for it, since none can be
        taken by its id.
        """
        if messages:
            self._look_at_kept({each.id for each in messages})

    def settle(self, channel: Channel, taken: ForeignMessage, keep_for: str) -> None:
        """Acknowledge a message, and in the same transaction publish it to our own queue.

        Args:
            channel: where it was taken; with transactions.
            taken: the message.
            keep_for: the queue that it was in; empty to keep nothing.
        """

        async def work() -> None:
            if keep_for:
                await channel.publish(
                    self.kept_queue,
                    taken.body,
                    headers={**taken.headers, _QUEUE_HEADER: keep_for},
                    content_type=taken.content_type,
                    content_encoding=taken.content_encoding,
                    reply_to=taken.reply_to,
                    correlation_id=taken.correlation_id,
                    priority=taken.priority,
                )
            await channel.ack(taken.delivered)
            await channel.commit()

        self.portal.call(work)

    def _scan(self, channel: Channel, queue: str, entries: "list[_Entry]") -> Iterator[LeftMessage]:
        while (message := self.portal.call(channel.get, queue)) is not None:
            taken = read_foreign(message)
            entries.append(_Entry(self, channel, taken, _read(taken, queue)))
            yield entries[-1]

    def _look_at_kept(self, without: Collection[str]) -> list[ForeignMessage]:
        """Return the messages in our queue, having deleted those of some tasks, by id."""
        if self.portal.call(self.connection.count, self.kept_queue) is None:
            return []
        found = []
        with self._transactions() as channel:
            while (message := self.portal.call(channel.get, self.kept_queue)) is not None:
                taken = read_foreign(message)
                if taken.headers.get("id") in without:
                    self.settle(channel, taken, "")
                else:
                    found.append(taken)
            if found:
                self.portal.call(channel.requeue, found[-1].delivered, True)
                self.portal.call(channel.commit)
        return found

    @contextmanager
    def _transactions(self) -> Iterator[Channel]:
        lent = self.connection.channel(transactional=True)
        with self.portal.wrap_async_context_manager(lent) as channel:
            yield channel

    def _declare_kept(self) -> None:
        async def declare() -> None:
            async with self.connection.channel() as channel:
                await channel.declare_queue(self.kept_queue)

        self.portal.call(declare)


@dataclass
class _Entry:
    """A message that was taken and is not acknowledged; see :class:`LeftMessage`."""

    queues: AmqpQueues
    channel: Channel
    taken: ForeignMessage
    message: CeleryMessage
    is_gone: bool = field(default=False, init=False)

    def drop(self) -> None:
        """See the protocol."""
        self.queues.settle(self.channel, self.taken, "")
        self.is_gone = True

    def keep(self) -> bool:
        """See the protocol."""
        self.queues.settle(self.channel, self.taken, self.message.queue)
        self.is_gone = True
        return True


def _read(taken: ForeignMessage, queue: str) -> CeleryMessage:
    return read(
        queue=queue or str(taken.headers.get(_QUEUE_HEADER) or ""),
        headers=taken.headers,
        body=taken.body,
        content_type=taken.content_type,
        reply_to=taken.reply_to,
        correlation_id=taken.correlation_id,
        priority=taken.priority,
    )
