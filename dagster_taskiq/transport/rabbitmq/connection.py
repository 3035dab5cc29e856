"""The connection to a RabbitMQ: made when it is first used, and again after it was lost.

aiormq speaks the protocol. The reconnecting layer on top of it, aio-pika, is not used: after an
outage it declares and consumes again what it remembers, while each of our callers has to decide
whether to wait, to try again or to report the outage. Calls on a lost connection raise an error,
and the next call makes a new connection.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiormq.exceptions import ChannelNotFoundEntity

from dagster_taskiq.errors import ConfigError, ServerUnavailableError
from dagster_taskiq.transport.rabbitmq.channel import Channel
from dagster_taskiq.transport.rabbitmq.errors import RabbitErrors
from dagster_taskiq.transport.rabbitmq.link import Link, connect
from dagster_taskiq.transport.rabbitmq.url import Target, read_target

T = TypeVar("T")

#: How many idle channels of each kind are kept open for the next caller.
SPARE_CHANNELS = 4


class RabbitConnection:
    """One server and virtual host, connected once for all brokers and backends that share it."""

    def __init__(
        self, url: str, options: Mapping[str, Any], timeout: float, lease: float = 30.0
    ) -> None:
        """Remember where to connect to; nothing is read or opened yet.

        Args:
            url: the server's URL.
            options: those of ``broker_options`` or ``backend_options``.
            timeout: how long connecting may take, in seconds, unless an option sets it.
            lease: the workers' lease, in seconds; the connection's heartbeat follows it.
        """
        self.url = url
        self.boundary = RabbitErrors(url)
        self._options = options
        self._connect_seconds = timeout
        self._lease = lease
        self._users = 0
        self._target: Target | None = None
        self._session: _Session | None = None
        self._connecting = asyncio.Lock()

    async def open(self) -> None:
        """Read URL and options, or count one more user; nothing is sent yet.

        Raises:
            ConfigError: the URL or an option cannot be used.
        """
        if self._users == 0:
            try:
                self._target = read_target(
                    self.url, self._options, self._lease, self._connect_seconds
                )
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"Cannot use the broker or backend {self.boundary.shown}: {error}."
                ) from None
        self._users += 1

    async def close(self) -> None:
        """Close the connection when its last user closes it."""
        if self._users == 0:
            return
        self._users -= 1
        if self._users == 0 and self._session is not None:
            session, self._session = self._session, None
            await session.link.close()

    async def abort(self) -> None:
        """Close the socket without asking the server; the next call makes a new connection.

        What was taken through it and not acknowledged is requeued once the server notices.
        """
        if self._session is not None:
            session, self._session = self._session, None
            session.link.abort()

    async def ping(self) -> None:
        """Return when the server has answered.

        Raises:
            ConfigError: it refuses the user, the password or the virtual host.
            ServerUnavailableError: it did not answer.
        """
        async with self.channel() as channel:
            await channel.declare_exchange("amq.direct", passive=True)

    @asynccontextmanager
    async def channel(self, *, transactional: bool = False) -> AsyncIterator[Channel]:
        """Lend a channel that nothing else uses meanwhile.

        Args:
            transactional: what is published, acknowledged or requeued on it takes effect with
                :meth:`Channel.commit`; else each message is confirmed when it is published.
        """
        session = await self._connected()
        spare = session.spare[transactional]
        channel = spare.pop() if spare else await session.open_channel(transactional)
        try:
            yield channel
        except BaseException:
            channel.discard()
            raise
        if channel.is_open and len(spare) < SPARE_CHANNELS:
            spare.append(channel)
        else:
            channel.discard()

    async def lasting_channel(self, key: str) -> Channel:
        """Return the channel of this key: the same at each call, until it is closed."""
        session = await self._connected()
        async with session.opening:
            channel = session.lasting.get(key)
            if channel is None or not channel.is_open:
                channel = session.lasting[key] = await session.open_channel(False)
        return channel

    async def count_ready(self, queue: str) -> int | None:
        """Return how many messages are ready in a queue; ``None`` if it does not exist."""
        try:
            async with self.channel() as channel:
                return await channel.declare_queue(queue, passive=True)
        except ChannelNotFoundEntity:
            return None

    async def count(self, queue: str) -> tuple[int, int] | None:
        """Return the ready messages and the consumers of a queue; ``None`` if it does not exist."""
        try:
            async with self.channel() as channel:
                return await channel.count(queue)
        except ChannelNotFoundEntity:
            return None

    async def declared(self) -> set[str]:
        """Return the names of what callers have declared on the present connection.

        Callers add to it. A new connection begins with an empty set: the server may be another.
        """
        return (await self._connected()).declared

    async def retry_if_lost(
        self, work: Callable[[], Awaitable[T]], may_repeat: Callable[[], bool] = lambda: True
    ) -> T:
        """Do something, and once more if the connection that it began with turns out to be lost.

        The server or a firewall may have closed a connection that was idle for a while, and only
        the next call notices.

        Args:
            work: what to do.
            may_repeat: asked before the second time.
        """
        session = self._session
        try:
            return await work()
        except ServerUnavailableError:
            if session is None or session.link.is_open or not may_repeat():
                raise
        return await work()

    async def _connected(self) -> "_Session":
        session = self._session
        if session is not None and session.link.is_open:
            return session
        if self._target is None:
            raise RuntimeError(f"The connection to {self.boundary.shown} is not open.")
        async with self._connecting:
            if self._session is None or not self._session.link.is_open:
                link = await connect(self._target, self.boundary)
                self._session = _Session(link)
            return self._session


@dataclass
class _Session:
    """What belongs to one AMQP connection, and is lost with it."""

    link: Link
    #: Idle channels: with transactions, and without.
    spare: dict[bool, list[Channel]] = field(default_factory=lambda: {False: [], True: []})
    #: Channels that are asked for by key, and the lock under which they are opened.
    lasting: dict[str, Channel] = field(default_factory=dict)
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    declared: set[str] = field(default_factory=set)

    async def open_channel(self, transactional: bool) -> Channel:
        return Channel(self.link, await self.link.open_channel(transactional), transactional)
