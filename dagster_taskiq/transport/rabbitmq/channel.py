"""A channel: what can be done on a connection, with deadlines, checked names and our errors."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import aiormq
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelPreconditionFailed, PublishError
from pamqp.commands import Basic

from dagster_taskiq.transport.background import look_at
from dagster_taskiq.transport.rabbitmq.errors import UnroutableError, declared_differently
from dagster_taskiq.transport.rabbitmq.link import Link
from dagster_taskiq.transport.rabbitmq.names import check_exchange_name, check_queue_name

T = TypeVar("T")

#: A message to be published: the name of a queue, the content, and properties of the protocol.
Publication = tuple[str, bytes, Mapping[str, Any]]

#: The queue type that we declare: a virtual host may have another default, without priorities.
_CLASSIC = {"x-queue-type": "classic"}


class Channel:
    """A channel of which every call either succeeds in time or raises.

    Besides what each method names, it raises ``ServerUnavailableError`` if the connection is lost
    or the server does not answer in time, and ``ConfigError`` if the user has no permission.
    """

    def __init__(self, link: Link, raw: aiormq.Channel, transactional: bool) -> None:
        """Wrap a channel of the client library.

        Args:
            link: the connection that it belongs to.
            raw: the channel.
            transactional: whether it was opened with transactions.
        """
        self._link = link
        self._raw = raw
        self._transactional = transactional

    @property
    def is_open(self) -> bool:
        """Whether it can be used; the server closes a channel on which a call has failed."""
        return self._link.is_open and not self._raw.is_closed

    def discard(self) -> None:
        """Close it in the background; messages taken on it and not acknowledged are requeued."""
        if self.is_open:
            self._link.run_in_background(self._raw.close())

    async def publish(
        self,
        routing_key: str,
        body: bytes,
        *,
        exchange: str = "",
        durable: bool = True,
        mandatory: bool = True,
        **properties: Any,
    ) -> None:
        """Publish one message; it is confirmed, or part of the transaction.

        Args:
            routing_key: on the default exchange, the name of a queue.
            body: the content.
            exchange: the name of an exchange; empty for the default one.
            durable: whether the message survives a restart of the server.
            mandatory: whether it is an error if no queue takes it. Has no effect in a transaction.
            properties: of the protocol, such as ``priority`` and ``headers``.

        Raises:
            UnroutableError: no queue took it.
        """
        wanted = Basic.Properties(delivery_mode=2 if durable else 1, **properties)
        try:
            await self._call(
                self._raw.basic_publish(
                    body,
                    exchange=exchange,
                    routing_key=routing_key,
                    properties=wanted,
                    mandatory=mandatory and not self._transactional,
                ),
                f"publish to {routing_key}",
            )
        except PublishError:
            raise UnroutableError(routing_key) from None

    async def get(self, queue: str) -> DeliveredMessage | None:
        """Take one message, unacknowledged; ``None`` if the queue has none."""
        message = await self._call(self._raw.basic_get(queue), f"read {queue}")
        return message if isinstance(message.delivery, Basic.GetOk) else None

    async def ack(self, message: DeliveredMessage) -> None:
        """Delete a message that was taken here."""
        await self._call(self._raw.basic_ack(_delivery_tag(message)), "acknowledge")

    async def requeue(self, message: DeliveredMessage, and_all_before: bool = False) -> None:
        """Put a message that was taken here back to its place in its queue."""
        await self._call(
            self._raw.basic_nack(_delivery_tag(message), multiple=and_all_before, requeue=True),
            "requeue a message",
        )

    async def requeue_all(self) -> None:
        """Put all that was taken here, and not acknowledged, back to its places."""
        # No number stands for all of them.
        await self._call(self._raw.basic_nack(0, multiple=True, requeue=True), "requeue messages")

    async def commit(
        self,
        publish: Sequence[Publication] = (),
        ack: Sequence[DeliveredMessage] = (),
        requeue: Sequence[DeliveredMessage] = (),
    ) -> None:
        """Let what is done here take effect, all of it, on a channel with transactions.

        All is sent without waiting for more than the one answer.

        Args:
            publish: durable messages.
            ack: messages that were taken here, to be deleted.
            requeue: messages that were taken here, to be put back to their places.
        """

        async def work() -> None:
            for queue, body, properties in publish:
                wanted = Basic.Properties(delivery_mode=2, **properties)
                await self._raw.basic_publish(
                    body, routing_key=queue, properties=wanted, wait=False
                )
            for message in ack:
                await self._raw.basic_ack(_delivery_tag(message), wait=False)
            for message in requeue:
                await self._raw.basic_nack(_delivery_tag(message), requeue=True, wait=False)
            await self._raw.tx_commit()

        await self._call(work(), "commit")

    async def consume(
        self, queue: str, on_message: Callable[[DeliveredMessage], Awaitable[None]]
    ) -> None:
        """Have each message of a queue passed to ``on_message`` when it arrives; it counts as
        acknowledged once it is sent.
        """

        async def consumer(message: DeliveredMessage) -> None:
            await on_message(message)

        await self._call(self._raw.basic_consume(queue, consumer, no_ack=True), f"consume {queue}")

    async def wait_while_open(self, event: asyncio.Event, seconds: float) -> None:
        """Return when an event is set, at the latest after some seconds.

        Raises:
            ServerUnavailableError: the connection was lost meanwhile, or the channel closed.
        """
        waiting = asyncio.ensure_future(event.wait())
        closing = asyncio.ensure_future(asyncio.shield(self._raw.closing))
        closing.add_done_callback(look_at)
        try:
            await asyncio.wait(
                [waiting, closing], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            waiting.cancel()
            closing.cancel()
        if not self.is_open:
            raise self._link.boundary.unavailable("the connection was lost")

    async def declare_queue(
        self,
        queue: str,
        *,
        exclusive: bool = False,
        passive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> int:
        """Declare a queue: durable, or exclusive; return how many messages are ready in it.

        Args:
            queue: its name.
            exclusive: it belongs to this connection, and is deleted with it.
            passive: only look whether it exists.
            arguments: of the server, such as ``x-expires``.

        Raises:
            ChannelNotFoundEntity: it does not exist (``passive``).
            ChannelLockedResource: it belongs to another connection (``exclusive``).
            ConfigError: it exists with other properties, or its name is not allowed.
        """
        check_queue_name(queue)
        if not passive and not exclusive:
            arguments = {**_CLASSIC, **(arguments or {})}
        try:
            answer = await self._call(
                self._raw.queue_declare(
                    queue,
                    durable=not exclusive,
                    exclusive=exclusive,
                    auto_delete=exclusive,
                    passive=passive,
                    arguments=dict(arguments) if arguments else None,
                ),
                f"declare {queue}",
            )
        except ChannelPreconditionFailed as error:
            raise declared_differently("queue", queue, error) from None
        return int(answer.message_count or 0)

    async def count(self, queue: str) -> tuple[int, int]:
        """Return how many messages of a queue are ready, and how many consumers it has.

        Raises:
            ChannelNotFoundEntity: it does not exist.
            ConfigError: its name is not allowed.
        """
        check_queue_name(queue)
        answer = await self._call(
            self._raw.queue_declare(queue, passive=True), f"look at the queue {queue}"
        )
        return int(answer.message_count or 0), int(answer.consumer_count or 0)

    async def declare_exchange(
        self, exchange: str, *, kind: str = "direct", passive: bool = False
    ) -> None:
        """Declare a durable exchange.

        Args:
            exchange: its name.
            kind: ``direct`` or ``topic``.
            passive: only look whether it exists.

        Raises:
            ChannelNotFoundEntity: it does not exist (``passive``).
            ConfigError: it exists with other properties, or its name is not allowed.
        """
        check_exchange_name(exchange)
        try:
            await self._call(
                self._raw.exchange_declare(
                    exchange, exchange_type=kind, durable=True, passive=passive
                ),
                f"declare {exchange}",
            )
        except ChannelPreconditionFailed as error:
            raise declared_differently("exchange", exchange, error) from None

    async def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        """Lead the messages of an exchange with a routing key to a queue too."""
        await self._call(self._raw.queue_bind(queue, exchange, routing_key), f"bind {queue}")

    async def bind_exchange(self, exchange: str, source: str, routing_key: str) -> None:
        """Lead the messages of the exchange ``source`` with a routing key to ``exchange`` too."""
        await self._call(self._raw.exchange_bind(exchange, source, routing_key), f"bind {exchange}")

    async def unbind(self, queue: str, exchange: str, routing_key: str) -> None:
        """Undo :meth:`bind`."""
        await self._call(self._raw.queue_unbind(queue, exchange, routing_key), f"unbind {queue}")

    async def purge_queue(self, queue: str) -> None:
        """Delete all messages of a queue, except those that are taken."""
        await self._call(self._raw.queue_purge(queue), f"empty {queue}")

    async def delete_queue(self, queue: str) -> None:
        """Delete a queue with its messages; it need not exist."""
        await self._call(self._raw.queue_delete(queue), f"delete {queue}")

    async def _call(self, work: Awaitable[T], action: str) -> T:
        return await self._link.call(work, action)


def _delivery_tag(message: DeliveredMessage) -> int:
    """Return the number by which a channel knows a message that was taken on it."""
    return int(message.delivery_tag or 0)
