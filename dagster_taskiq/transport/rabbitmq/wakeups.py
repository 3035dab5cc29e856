"""Wake-ups: how listeners learn that a message has been published, without asking all the time.

A wake-up is an empty message through an exchange, with the queue as its routing key. A listener has
a queue of its own for them. They are hints: a message without one is found within
``IDLE_LOOK_SECONDS``.
"""

import asyncio
from collections.abc import Collection

from aiormq.abc import DeliveredMessage

from dagster_taskiq.transport.listener import IDLE_LOOK_SECONDS
from dagster_taskiq.transport.rabbitmq.channel import Channel
from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.names import Names

#: How many wake-ups are kept for a listener that does not read them. It then learns of the first
#: queues only; the others it finds at its next look.
MAX_WAKEUPS = 100


class IdleQueues:
    """The queues that need not be asked: they were empty, and no wake-up has come since.

    Only queues whose wake-ups arrive here can be idle. All are asked once in ``IDLE_LOOK_SECONDS``.
    """

    def __init__(self) -> None:
        self._subscribed: set[str] = set()
        self._idle: set[str] = set()
        self._all_asked_at = 0.0

    def begin_look(self, clock: float) -> None:
        """Begin a look at the queues at a monotonic time; all are asked if that is due."""
        if clock - self._all_asked_at >= IDLE_LOOK_SECONDS:
            self._idle.clear()
            self._all_asked_at = clock

    def is_idle(self, queue: str) -> bool:
        """Whether a queue need not be asked."""
        return queue in self._idle

    def before_asking(self, queue: str) -> None:
        """Take a queue for empty, before it is asked: a wake-up may come before the answer."""
        if queue in self._subscribed:
            self._idle.add(queue)

    def has_messages(self, queue: str) -> None:
        """Note that a queue has messages, or may have."""
        self._idle.discard(queue)

    def ask_all(self) -> None:
        """Note that any queue may have messages."""
        self._idle.clear()

    def missing(self, queues: Collection[str]) -> set[str]:
        """Return those of the queues whose wake-ups do not arrive here yet."""
        return set(queues) - self._subscribed

    def subscribed(self, queue: str) -> None:
        """Note that the wake-ups of a queue arrive here from now on."""
        self._subscribed.add(queue)

    def unsubscribed(self) -> None:
        """Note that no wake-ups arrive here any more."""
        self._subscribed.clear()
        self._idle.clear()


class WakeUps:
    """Sends wake-ups, and receives those of one listener."""

    def __init__(self, connection: RabbitConnection, names: Names) -> None:
        self.idle = IdleQueues()
        self._connection = connection
        self._names = names
        self._woken = asyncio.Event()
        # The channel on which the wake-ups are consumed, and the name of their queue on it.
        self._channel: Channel | None = None
        self._queue = ""

    async def send(self, channel: Channel, queue: str) -> None:
        """Wake the listeners that wait for messages of a queue; there may be none."""
        exchange = await self.declare_exchange(channel)
        await channel.publish(queue, b"", exchange=exchange, durable=False, mandatory=False)

    def begin_look(self, clock: float) -> None:
        """Begin a look at the queues: a wake-up that comes from now on calls for another look.

        Args:
            clock: monotonic seconds.
        """
        self.idle.begin_look(clock)
        self._woken.clear()

    async def wait(self, queues: Collection[str], consumer: str, timeout: float) -> None:
        """Return when a queue may have a message, at the latest after ``timeout`` seconds.

        The first call, and the first on a new connection, subscribes to the wake-ups of the queues.
        It returns at once, since messages may have come before that.

        Args:
            queues: those whose wake-ups are waited for.
            consumer: the name of the listener.
            timeout: seconds.

        Raises:
            ServerUnavailableError: the connection was lost.
        """
        channel = await self._connection.lasting_channel(f"wake-ups of {id(self)}")
        if channel is not self._channel:
            await self._consume(channel, consumer)
        missing = self.idle.missing(queues)
        for queue in missing:
            await channel.bind(self._queue, await self.declare_exchange(channel), queue)
            self.idle.subscribed(queue)
        if missing:
            return
        await channel.wait_while_open(self._woken, timeout)
        if not self._woken.is_set():
            self.idle.ask_all()

    async def _consume(self, channel: Channel, consumer: str) -> None:
        self.idle.unsubscribed()
        self._queue = self._names.new_wakeups(consumer)
        await channel.declare_queue(
            self._queue, exclusive=True, arguments={"x-max-length": MAX_WAKEUPS}
        )
        await channel.consume(self._queue, self._on_wakeup)
        self._channel = channel

    async def declare_exchange(self, channel: Channel) -> str:
        """Declare the exchange of the wake-ups, once for each connection; return its name.

        Raises:
            ConfigError: it exists with other properties.
        """
        exchange = self._names.wakeups_exchange
        declared = await self._connection.declared()
        if exchange not in declared:
            await channel.declare_exchange(exchange)
            declared.add(exchange)
        return exchange

    async def _on_wakeup(self, message: DeliveredMessage) -> None:
        self.idle.has_messages(message.routing_key or "")
        self._woken.set()
