"""Notifications: posted to a channel, received by the processes that read it, retained for others.

They go through one exchange. Each process has one queue, its inbox, to which the exchange leads all
channels that the process reads. A second queue for each channel retains copies for a while, for
processes that begin to read the channel later.

A channel here is one of notifications, such as a run's; a connection's channels are those of AMQP.
"""

import asyncio
import json
import math
import time
import uuid
from collections import OrderedDict
from typing import Any

from aiormq.abc import DeliveredMessage

from dagster_taskiq.transport.rabbitmq.channel import Channel
from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.names import Names, name_part
from dagster_taskiq.wire.notifications import CHANNEL_LENGTH, FROM_START, Notification

#: How long notifications are retained after the last one, for processes that read the channel
#: later, in seconds.
RETAINED_SECONDS = 300
#: For how long a process goes on receiving a channel that it no longer reads, in seconds.
UNREAD_SECONDS = 60


class Received:
    """The last notifications of one channel that this process has received, oldest first."""

    def __init__(self) -> None:
        #: Set when one is added; a reader clears it before it looks.
        self.arrived = asyncio.Event()
        #: When it was last read (monotonic).
        self.read_at = time.monotonic()
        self._kept: OrderedDict[str, Notification] = OrderedDict()

    def add(self, cursor: str, body: dict[str, Any]) -> None:
        """Add a notification as the latest one, unless it is there."""
        if cursor not in self._kept:
            self._kept[cursor] = Notification(cursor, body)
            if len(self._kept) > CHANNEL_LENGTH:
                self._kept.popitem(last=False)
            self.arrived.set()

    def add_older(self, older: "Received") -> None:
        """Put notifications that were posted earlier before those that are here."""
        later, self._kept = self._kept, OrderedDict()
        for each in (*older._kept.values(), *later.values()):
            self.add(each.cursor, each.body)

    def after(self, cursor: str) -> list[Notification]:
        """Return what came after a cursor; all if the cursor is ``FROM_START`` or unknown."""
        kept = list(self._kept.values())
        if cursor == FROM_START or cursor not in self._kept:
            return kept
        return kept[list(self._kept).index(cursor) + 1 :]


class RetainedChannels:
    """The channels whose retaining queue was declared lately, on the present connection.

    A retaining queue expires unless it is declared again in time.
    """

    def __init__(self) -> None:
        self._declared_at: dict[str, float] = {}
        self._session: object = None

    def is_due(self, key: str, session: object, now: float) -> bool:
        """Return whether the queue of a channel has to be declared (again).

        Args:
            key: the channel.
            session: an object that is another one after each new connection.
            now: monotonic seconds.
        """
        if session is not self._session:
            self._declared_at, self._session = {}, session
        recent = now - RETAINED_SECONDS / 2
        if self._declared_at.get(key, -math.inf) > recent:
            return False
        self._declared_at = {each: at for each, at in self._declared_at.items() if at > recent}
        return True

    def note(self, key: str, now: float) -> None:
        """Note that the queue of a channel has just been declared."""
        self._declared_at[key] = now

    def forget(self, key: str) -> None:
        """Note that the queue of a channel may have been deleted."""
        self._declared_at.pop(key, None)


class Inbox:
    """The notifications that one process posts and reads."""

    def __init__(self, connection: RabbitConnection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._retained = RetainedChannels()
        # The AMQP channel on which the inbox is consumed, and the inbox's name on it.
        self._consuming: Channel | None = None
        self._queue = ""
        # What has been received, by the routing key of the notifications' channel.
        self._received: dict[str, Received] = {}
        self._subscribing = asyncio.Lock()

    async def post(self, channel_name: str, body: dict[str, Any]) -> None:
        """Send a notification to all readers of a channel, and retain a copy."""
        key = name_part(channel_name)
        async with self._connection.channel() as channel:
            await self._retain(channel, key)
            await channel.publish(
                key,
                json.dumps(body).encode(),
                exchange=self._names.notifications_exchange,
                durable=False,
                mandatory=False,
                message_id=uuid.uuid4().hex,
            )

    async def collect(self, channel_name: str, after: str, timeout: float) -> list[Notification]:
        """Return the notifications of a channel after a cursor.

        Args:
            channel_name: the channel.
            after: the cursor.
            timeout: how long to wait for the first one, in seconds.

        Raises:
            ServerUnavailableError: the connection was lost; later calls return what was sent
                meanwhile, as far as the server has retained it.
        """
        key = name_part(channel_name)
        deadline = time.monotonic() + timeout
        while True:
            received, channel = await self._subscribed(key)
            received.arrived.clear()
            found = received.after(after)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            await channel.wait_while_open(received.arrived, min(left, UNREAD_SECONDS / 2))

    async def close(self, channel_name: str) -> None:
        """Delete what is retained of a channel, and receive no more of it here."""
        key = name_part(channel_name)
        async with self._connection.channel() as channel:
            await channel.delete_queue(self._names.retained(key))
        self._retained.forget(key)
        if self._received.pop(key, None) is not None and self._consuming is not None:
            await self._unbind(self._consuming, key)

    async def _subscribed(self, key: str) -> tuple[Received, Channel]:
        """Return what has been received of a channel, and have more of it delivered here."""
        channel = await self._connection.lasting_channel(f"inbox of {id(self)}")
        async with self._subscribing:
            if channel is not self._consuming:
                # After a lost connection: what came meanwhile is read from the retained queues.
                self._received.clear()
                self._queue = self._names.new_inbox()
                await channel.declare_queue(self._queue, exclusive=True)
                await channel.consume(self._queue, self._on_message)
                self._consuming = channel
            received = self._received.get(key)
            if received is None:
                received = await self._subscribe(channel, key)
            received.read_at = time.monotonic()
            await self._unsubscribe_unread(channel)
        return received, channel

    async def _subscribe(self, channel: Channel, key: str) -> Received:
        received = self._received[key] = Received()
        # Another process may have closed the channel since this one posted to it.
        self._retained.forget(key)
        try:
            await self._retain(channel, key)
            await channel.bind(self._queue, self._names.notifications_exchange, key)
            await self._read_retained(key, received)
        except BaseException:
            self._received.pop(key, None)
            raise
        return received

    async def _read_retained(self, key: str, received: Received) -> None:
        """Add the retained notifications of a channel, and leave them where they are."""
        queue = self._names.retained(key)
        retained = Received()
        async with self._connection.channel() as channel:
            last: DeliveredMessage | None = None
            while (message := await channel.get(queue)) is not None:
                _add(retained, message)
                last = message
            if last is not None:
                await channel.requeue(last, and_all_before=True)
        received.add_older(retained)

    async def _unsubscribe_unread(self, channel: Channel) -> None:
        oldest = time.monotonic() - UNREAD_SECONDS
        for key, received in list(self._received.items()):
            if received.read_at < oldest:
                del self._received[key]
                await self._unbind(channel, key)

    async def _unbind(self, channel: Channel, key: str) -> None:
        await channel.unbind(self._queue, self._names.notifications_exchange, key)

    async def _retain(self, channel: Channel, key: str) -> None:
        """Have the notifications of a channel retained from now on."""
        declared = await self._connection.declared()
        now = time.monotonic()
        if not self._retained.is_due(key, declared, now):
            return
        exchange = self._names.notifications_exchange
        if exchange not in declared:
            await channel.declare_exchange(exchange)
            declared.add(exchange)
        queue = self._names.retained(key)
        arguments = {"x-expires": RETAINED_SECONDS * 1000, "x-max-length": CHANNEL_LENGTH}
        await channel.declare_queue(queue, arguments=arguments)
        await channel.bind(queue, exchange, key)
        self._retained.note(key, now)

    async def _on_message(self, message: DeliveredMessage) -> None:
        received = self._received.get(message.routing_key or "")
        if received is not None:
            _add(received, message)


def _add(received: Received, message: DeliveredMessage) -> None:
    received.add(str(message.header.properties.message_id), json.loads(message.body))
