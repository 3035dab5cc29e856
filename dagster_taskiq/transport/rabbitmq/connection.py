"""The connection to RabbitMQ, and channels whose every call ends.

aiormq, the client that taskiq-aio-pika brings, speaks the protocol. Its reconnecting layer is not
used: after an outage that declares and consumes again by itself what it remembers, while here each
caller knows best what it had, and whether to wait, to try again or to say so. A connection that is
lost raises ``ServerUnavailableError`` for its users, and the next call makes a new one.
"""

import asyncio
import contextlib
import hashlib
import logging
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import aiormq
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.connection import TransportFactory
from aiormq.exceptions import (
    AMQPError,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    DeliveryError,
    PublishError,
)
from pamqp.commands import Basic, Connection
from pamqp.constants import DOMAIN_REGEX
from yarl import URL

from dagster_taskiq.errors import ConfigError, ServerUnavailableError
from dagster_taskiq.transport.background import look_at
from dagster_taskiq.transport.rabbitmq.errors import LOST, RabbitErrors, text_of
from dagster_taskiq.transport.rabbitmq.url import COMMAND_SECONDS, Target, read_target

T = TypeVar("T")

#: The longest name of a queue or routing key, in bytes of UTF-8, by the protocol.
NAME_BYTES = 255
#: The longest name of an exchange that the client library lets through.
EXCHANGE_NAME_BYTES = 127
#: The longest name of something else, such as a task, that becomes a part of a queue's name.
SAYABLE_BYTES = 120
#: The names of queues and exchanges that the client library lets through.
NAME = DOMAIN_REGEX["queue-name"]
#: Channels of each kind that are kept open for the next caller.
SPARE_CHANNELS = 4

_in_our_connection: ContextVar[bool] = ContextVar("in_our_connection", default=False)


class UnroutableError(Exception):
    """A message had nowhere to go: its queue has been deleted."""


class RabbitConnection:
    """One server and virtual host, connected once however many share it."""

    def __init__(
        self, url: str, options: Mapping[str, Any], timeout: float, lease: float = 30.0
    ) -> None:
        self.url = url
        self.boundary = RabbitErrors(url)
        self._given = options
        self._connect_seconds = timeout
        self._lease = lease
        self._users = 0
        self._target: Target | None = None
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()

    async def open(self) -> None:
        """Read URL and options; nothing is sent yet. May be called by each who shares it.

        Raises:
            ConfigError: the URL or an option cannot be used.
        """
        if self._users == 0:
            try:
                self._target = read_target(
                    self.url, self._given, self._lease, self._connect_seconds
                )
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"Cannot use the broker or backend {self.boundary.shown}: {error}."
                ) from None
        self._users += 1

    async def close(self) -> None:
        """Close when the last of those who share it closes."""
        if self._users == 0:
            return
        self._users -= 1
        if self._users == 0 and self._link is not None:
            link, self._link = self._link, None
            with contextlib.suppress(*LOST):
                await asyncio.wait_for(link.connection.close(), COMMAND_SECONDS)

    async def drop(self) -> None:
        """Cut the connection without a word, as a power cut would; the next call makes a new one.

        What was claimed through it and not acknowledged is the server's again once it notices.
        """
        if self._link is not None:
            link, self._link = self._link, None
            link.cut()

    async def ping(self) -> None:
        """Return when the server answered.

        Raises:
            ConfigError: it answered that it does not let us in.
            ServerUnavailableError: it did not answer.
        """
        async with self.channel() as channel:
            await channel.declare_exchange("amq.direct", passive=True)

    @asynccontextmanager
    async def channel(self, *, transactional: bool = False) -> AsyncIterator["Channel"]:
        """Lend a channel that nobody else uses meanwhile.

        Args:
            transactional: what is published, acknowledged or given back on it takes effect with
                :meth:`Channel.commit`; else each message is confirmed by itself.
        """
        link = await self._linked()
        spare = link.spare[transactional]
        channel = spare.pop() if spare else await self._open_channel(link, transactional)
        try:
            yield channel
        except BaseException:
            # Whatever it holds unacknowledged goes back to where it was.
            channel.discard()
            raise
        if channel.is_open and len(spare) < SPARE_CHANNELS:
            spare.append(channel)
        else:
            channel.discard()

    async def waiting_in(self, queue: str) -> int | None:
        """Return how many messages are ready in a queue; ``None`` where there is no such queue."""
        try:
            async with self.channel() as channel:
                return (await channel.declare_queue(queue, passive=True))[1]
        except ChannelNotFoundEntity:
            return None

    async def lasting_channel(self, name: str) -> "Channel":
        """Return the channel of this name; a new one where there was none, or it was closed."""
        link = await self._linked()
        async with link.opening:
            channel = link.lasting.get(name)
            if channel is None or not channel.is_open:
                channel = link.lasting[name] = await self._open_channel(link, False)
        return channel

    async def known(self) -> set[str]:
        """Return the names of what has been declared on the present connection.

        What comes after a lost connection starts with an empty set: the server may be another.
        """
        return (await self._linked()).declared

    async def again(
        self, work: Callable[[], Awaitable[T]], may_be: Callable[[], bool] = lambda: True
    ) -> T:
        """Do something, and once more where the connection turns out to have been a stale one.

        A connection that nobody used for a while may have been closed by the server, or by a
        firewall, and says so only when it is used.

        Args:
            work: what to do.
            may_be: asked before the second time; whether it may be done twice.
        """
        link = self._link
        try:
            return await work()
        except ServerUnavailableError:
            if link is None or link.is_open or not may_be():
                raise
        return await work()

    async def _linked(self) -> "_Link":
        link = self._link
        if link is not None and link.is_open:
            return link
        if self._target is None:
            raise RuntimeError(f"The connection to {self.boundary.shown} is not open.")
        async with self._connecting:
            if self._link is None or not self._link.is_open:
                self._link = await self._connect(self._target)
            return self._link

    async def _connect(self, target: Target) -> "_Link":
        transport = _Transport(target.tls, target.server_name)
        connection = _Connection(target.url, transport_factory=transport)
        with self.boundary:
            try:
                await _within(connection.connect(), target.connect_seconds)
            except AMQPError as error:
                raise self.boundary.refusal(error) or error from None
            except asyncio.TimeoutError as error:
                if error.args:
                    raise
                seconds = f"{target.connect_seconds:g} s"
                raise self.boundary.unavailable(
                    f"no connection was made within {seconds}"
                ) from None
        return _Link(connection, transport, target.command_seconds, self.boundary)

    async def _open_channel(self, link: "_Link", transactional: bool) -> "Channel":
        opening = link.connection.channel(publisher_confirms=not transactional)
        channel = Channel(link, await link.call(opening, "open a channel"), transactional)
        if transactional:
            await link.call(channel.raw.tx_select(), "begin transactions")
        return channel


class Channel:
    """A channel of which every call either answers in time or raises."""

    def __init__(self, link: "_Link", raw: AbstractChannel, transactional: bool) -> None:
        self.raw = raw
        self._link = link
        self._transactional = transactional

    @property
    def is_open(self) -> bool:
        """Whether it can be used; the server closes a channel on which something went wrong."""
        return self._link.is_open and not self.raw.is_closed

    def discard(self) -> None:
        """Close it in the background."""
        if self.is_open:
            self._link.in_background(self.raw.close())

    async def publish(
        self,
        queue: str,
        body: bytes,
        *,
        exchange: str = "",
        durable: bool = True,
        must_arrive: bool = True,
        **properties: Any,
    ) -> None:
        """Publish one message; it is confirmed, or part of the transaction.

        Args:
            queue: the queue, or the routing key of the exchange.
            body: what it says.
            exchange: the default one, which leads to the queue of that name, where empty.
            durable: it survives a restart of the server.
            must_arrive: it is an error when no queue takes it.
            properties: of the protocol, such as ``priority`` and ``headers``.

        Raises:
            UnroutableError: no queue took it.
        """
        wanted = Basic.Properties(delivery_mode=2 if durable else 1, **properties)
        try:
            await self._call(
                self.raw.basic_publish(
                    body,
                    exchange=exchange,
                    routing_key=queue,
                    properties=wanted,
                    mandatory=must_arrive and not self._transactional,
                ),
                f"publish to {queue}",
            )
        except PublishError:
            raise UnroutableError(queue) from None

    async def get(self, queue: str) -> DeliveredMessage | None:
        """Take one message, unacknowledged, or ``None`` where the queue has none."""
        message = await self._call(self.raw.basic_get(queue), f"read {queue}")
        return message if isinstance(message.delivery, Basic.GetOk) else None

    async def ack(self, message: DeliveredMessage) -> None:
        """Delete a message that was taken here."""
        await self._call(self.raw.basic_ack(tag_of(message)), "acknowledge")

    async def give_back(self, message: DeliveredMessage, and_all_before: bool = False) -> None:
        """Put a message that was taken here back to where it was."""
        await self._call(
            self.raw.basic_nack(tag_of(message), multiple=and_all_before, requeue=True),
            "give a message back",
        )

    async def commit(self) -> None:
        """Let what was done since the last time take effect, all of it."""
        await self._call(self.raw.tx_commit(), "commit")

    async def consume(
        self, queue: str, on_message: Callable[[DeliveredMessage], Awaitable[None]]
    ) -> None:
        """Have each message of a queue handed on as it comes, acknowledged by that."""
        await self._call(
            self.raw.basic_consume(queue, cast(Any, on_message), no_ack=True), f"consume {queue}"
        )

    async def wait_while_open(self, event: asyncio.Event, seconds: float) -> None:
        """Return when an event is set, or after some seconds.

        Raises:
            ServerUnavailableError: the connection was lost meanwhile, or the channel closed.
        """
        waiting = asyncio.ensure_future(event.wait())
        closing = asyncio.ensure_future(asyncio.shield(self.raw.closing))
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
        durable: bool = True,
        exclusive: bool = False,
        passive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> tuple[str, int]:
        """Declare a queue; return its name and how many messages are ready in it.

        Raises:
            ChannelNotFoundEntity: it is not there (``passive``).
            ChannelLockedResource: it belongs to somebody else (``exclusive``).
            ConfigError: it is there with other properties, or not for us to declare.
        """
        _check_name("queue", queue, NAME_BYTES)
        if not passive and not exclusive:
            # Said, since a virtual host may have another default, which knows no priorities.
            arguments = {"x-queue-type": "classic", **(arguments or {})}
        try:
            answer = await self._call(
                self.raw.queue_declare(
                    queue,
                    durable=durable and not exclusive,
                    exclusive=exclusive,
                    auto_delete=exclusive,
                    passive=passive,
                    arguments=dict(arguments) if arguments else None,
                ),
                f"declare {queue}",
            )
        except ChannelPreconditionFailed as error:
            raise ConfigError(_declared_otherwise("queue", queue, error)) from None
        return str(answer.queue), int(answer.message_count or 0)

    async def declare_exchange(
        self, exchange: str, *, kind: str = "direct", passive: bool = False
    ) -> None:
        """Declare a durable exchange of a kind.

        Raises:
            ChannelNotFoundEntity: it is not there (``passive``).
            ConfigError: it is there with other properties, or not for us to declare.
        """
        _check_name("exchange", exchange, EXCHANGE_NAME_BYTES)
        try:
            await self._call(
                self.raw.exchange_declare(
                    exchange, exchange_type=kind, durable=True, passive=passive
                ),
                f"declare {exchange}",
            )
        except ChannelPreconditionFailed as error:
            raise ConfigError(_declared_otherwise("exchange", exchange, error)) from None

    async def bind(self, queue: str, exchange: str, key: str) -> None:
        """Lead messages of an exchange with a routing key to a queue as well."""
        await self._call(self.raw.queue_bind(queue, exchange, key), f"bind {queue}")

    async def bind_exchange(self, exchange: str, source: str, key: str) -> None:
        """Lead messages of one exchange with a routing key to another one as well."""
        await self._call(self.raw.exchange_bind(exchange, source, key), f"bind {exchange}")

    async def unbind(self, queue: str, exchange: str, key: str) -> None:
        """Undo :meth:`bind`."""
        await self._call(self.raw.queue_unbind(queue, exchange, key), f"unbind {queue}")

    async def purge_queue(self, queue: str) -> None:
        """Delete all messages of a queue that nobody has taken."""
        await self._call(self.raw.queue_purge(queue), f"empty {queue}")

    async def delete_queue(self, queue: str) -> None:
        """Delete a queue with all that is in it; it need not be there."""
        await self._call(self.raw.queue_delete(queue), f"delete {queue}")

    async def _call(self, work: Awaitable[T], doing: str) -> T:
        return await self._link.call(work, doing)


@dataclass
class _Link:
    """One TCP connection, for as long as it lasts."""

    connection: aiormq.Connection
    transport: "_Transport"
    command_seconds: float
    boundary: RabbitErrors
    spare: dict[bool, list[Channel]] = field(default_factory=lambda: {False: [], True: []})
    lasting: dict[str, Channel] = field(default_factory=dict)
    declared: set[str] = field(default_factory=set)
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    given_up: bool = False
    _background: set["asyncio.Future[Any]"] = field(default_factory=set)

    @property
    def is_open(self) -> bool:
        return not self.given_up and self.connection.is_opened

    async def call(self, work: Awaitable[T], doing: str) -> T:
        with self.boundary:
            try:
                return await _within(work, self.command_seconds)
            except asyncio.TimeoutError:
                # The server is frozen or cut off. What was sent must not take effect later.
                self.cut()
                seconds = f"{self.command_seconds:g} s"
                raise self.boundary.unavailable(f"it did not {doing} within {seconds}") from None
            except ChannelAccessRefused as error:
                raise ConfigError(
                    f"The server does not let us {doing}: {text_of(error)}. Grant the user "
                    "configure, write and read permission for the names that begin with the "
                    "`prefix` (rabbitmqctl set_permissions)."
                ) from None
            except PublishError:
                raise
            except DeliveryError:
                raise self.boundary.unavailable(f"the server could not {doing}") from None

    def cut(self) -> None:
        self.given_up = True
        # The client library sees the end of the stream, and tells whoever still waits.
        self.transport.abort()

    def in_background(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(look_at)


class _Connection(aiormq.Connection):
    """A connection that hears the server out where it closes instead of opening.

    aiormq takes that for a frame it did not expect, and keeps what the server said to itself.
    """

    @staticmethod
    async def _rpc(
        request: Any, writer: Any, frame_receiver: Any, wait_response: bool = True
    ) -> Any:
        answers = cast(Any, _Answers(frame_receiver))
        return await aiormq.Connection._rpc(request, writer, answers, wait_response)


class _Answers:
    """The frames that answer while a connection is made."""

    def __init__(self, receiver: Any) -> None:
        self._receiver = receiver

    async def get_frame(self) -> Any:
        received = await self._receiver.get_frame()
        if isinstance(received[2], Connection.Close):
            raise aiormq.exceptions.ConnectionClosed(received[2].reply_code, received[2].reply_text)
        return received


class _Transport(TransportFactory):
    """Opens the socket, and can close it without asking the server."""

    def __init__(self, tls: ssl.SSLContext | None, server_name: str | None) -> None:
        self._tls = tls
        self._server_name = server_name if tls else None
        self._writer: asyncio.StreamWriter | None = None

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect (aiormq's own hook)."""
        reader, writer = await asyncio.open_connection(
            url.host, url.port, ssl=self._tls, server_hostname=self._server_name
        )
        self._writer = writer
        return reader, writer

    def abort(self) -> None:
        """Close the socket, whatever has not been sent."""
        if self._writer is not None:
            self._writer.transport.abort()


def tag_of(message: DeliveredMessage) -> int:
    """Return the number by which a channel knows a message that was taken on it."""
    return int(message.delivery_tag or 0)


async def _within(work: Awaitable[T], seconds: float) -> T:
    """Await the client library so that its own end is never taken for that of the caller.

    It cancels, when a connection is lost, whoever waits; and a caller that is cancelled leaves it
    to finish what it has begun, rather than half of a message on the wire.
    """
    token = _in_our_connection.set(True)
    try:
        task = asyncio.ensure_future(work)
    finally:
        _in_our_connection.reset(token)
    try:
        await asyncio.wait([task], timeout=seconds)
    finally:
        task.add_done_callback(look_at)
    if not task.done():
        task.cancel()
        raise asyncio.TimeoutError
    if task.cancelled():
        raise ConnectionError("the connection was closed")
    return task.result()


def sayable(name: str) -> str:
    """Return what stands for a name in that of a queue: itself, or a digest where it cannot."""
    if len(name) <= SAYABLE_BYTES and NAME.fullmatch(name):
        return name
    return hashlib.sha256(name.encode()).hexdigest()


def _check_name(kind: str, name: str, limit: int) -> None:
    """Refuse a name that the protocol, or the client library, cannot say.

    Raises:
        ConfigError: it is too long, or has a character that is not allowed.
    """
    if len(name.encode()) > limit:
        raise ConfigError(
            f"The name of the {kind} {name!r} is longer than the {limit} bytes that RabbitMQ "
            "allows. Choose a shorter queue name or prefix."
        )
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"The name of the {kind} {name!r} has a character that is not allowed on RabbitMQ. "
            "Choose a queue name and prefix of letters and digits of ASCII, spaces and -_.:@#,/+."
        )


def _declared_otherwise(kind: str, name: str, error: BaseException) -> str:
    """Return what to do about a queue or exchange that somebody has declared otherwise."""
    said = text_of(error)
    found = re.search(r"inequivalent arg '([^']+)'.*: received (.*?) but current is (.*)$", said)
    if found is None:
        difference = said
    else:
        argument, wanted, current = found.groups()
        difference = f"its {argument} is {_plain(current)}, and should be {_plain(wanted)}"
    delete = "Delete it"
    if kind == "queue":
        delete += f' once it is empty (rabbitmqctl delete_queue "{name}")'
    return (
        f'The {kind} "{name}" is on the server already, declared otherwise: {difference}. '
        f"Something else made it, or another version of this package. {delete}, or set another "
        "`prefix`."
    )


def _plain(value: str) -> str:
    found = re.match(r"(?:the value )?'(.*)'(?: of type .*)?$", value)
    return found.group(1) if found else value


def _not_ours_to_tell(record: logging.LogRecord) -> bool:
    """Keep out what the client library logs of our connections: whoever uses them says it better.

    But for what nobody else would know, that the server takes nothing more for the time being.
    """
    return not _in_our_connection.get() or "blocked" in str(record.msg)


for _name in ("aiormq.connection", "aiormq.channel", "aiormq.base"):
    logging.getLogger(_name).addFilter(_not_ours_to_tell)
