"""One AMQP connection, for as long as it lasts, on which every call ends within a time."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any, TypeVar

import aiormq
from aiormq.exceptions import (
    AMQPError,
    ChannelAccessRefused,
    ConnectionClosed,
    DeliveryError,
    PublishError,
)

from dagster_taskiq.transport.background import look_at
from dagster_taskiq.transport.rabbitmq.errors import LOST, RabbitErrors, no_permission
from dagster_taskiq.transport.rabbitmq.tcp import TcpConnection
from dagster_taskiq.transport.rabbitmq.url import COMMAND_SECONDS, Target

T = TypeVar("T")

#: Whether the present task is a call of ours into aiormq; its log records are left out then.
_in_call: ContextVar[bool] = ContextVar("_in_call", default=False)


class Link:
    """One AMQP connection. Once it is lost it stays lost; the next one is another link."""

    def __init__(
        self,
        connection: aiormq.Connection,
        tcp: TcpConnection,
        boundary: RabbitErrors,
        command_seconds: float,
    ) -> None:
        """Wrap a connection that is open; see :func:`connect`."""
        self.boundary = boundary
        self._connection = connection
        self._tcp = tcp
        self._command_seconds = command_seconds
        self._aborted = False
        self._background: set[asyncio.Future[Any]] = set()

    @property
    def is_open(self) -> bool:
        """Whether it can be used, as far as is known."""
        return not self._aborted and self._connection.is_opened

    async def open_channel(self, transactional: bool) -> aiormq.Channel:
        """Open a channel: with transactions, or with a confirmation of each publish.

        Raises:
            ServerUnavailableError: the connection is lost.
        """
        opening = self._connection.channel(publisher_confirms=not transactional)
        channel = await self.call(opening, "open a channel")
        if not isinstance(channel, aiormq.Channel):
            raise TypeError(f"aiormq has opened {channel!r}, which is not a channel of its own.")
        if transactional:
            await self.call(channel.tx_select(), "begin transactions")
        return channel

    async def call(self, work: Awaitable[T], action: str) -> T:
        """Await a call of the client library.

        Args:
            work: the call.
            action: what it does, for error messages that begin with "it did not".

        Raises:
            ServerUnavailableError: the connection is lost, or was closed for want of an answer.
            ConfigError: the user has no permission for it.
            one of ``errors.ANSWERS``: the server refuses it for another reason.
        """
        with self.boundary:
            try:
                return await _await_within(work, self._command_seconds)
            except asyncio.TimeoutError:
                # The server is frozen or cut off. What was sent must not take effect later.
                self.abort()
                seconds = f"{self._command_seconds:g} s"
                raise self.boundary.unavailable(f"it did not {action} within {seconds}") from None
            except ChannelAccessRefused as error:
                raise no_permission(action, error) from None
            except PublishError:
                raise
            except DeliveryError:
                raise self.boundary.unavailable(f"the server could not {action}") from None

    def abort(self) -> None:
        """Close the socket without asking the server; calls that wait end with an error."""
        self._aborted = True
        self._tcp.abort()

    async def close(self) -> None:
        """Close the connection; that it may be lost already is no error."""
        with contextlib.suppress(*LOST):
            await asyncio.wait_for(self._connection.close(), COMMAND_SECONDS)

    def run_in_background(self, work: Awaitable[Any]) -> None:
        """Let a call of the client library run, and ignore how it ends."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(look_at)


async def connect(target: Target, boundary: RabbitErrors) -> Link:
    """Open an AMQP connection.

    Raises:
        ServerUnavailableError: there was no connection within ``target.connect_seconds``.
        ConfigError: the server refuses the user, the password or the virtual host.
    """
    tcp = TcpConnection(target.tls, target.server_name)
    connection = aiormq.Connection(target.url, transport_factory=tcp)
    with boundary:
        try:
            await _await_within(connection.connect(), target.connect_seconds)
        except asyncio.TimeoutError as error:
            if error.args:  # it is the system's, of a connection attempt that it gave up
                raise
            seconds = f"{target.connect_seconds:g} s"
            raise boundary.unavailable(f"no connection was made within {seconds}") from None
        except AMQPError as error:
            closed = tcp.refusal
            answer = ConnectionClosed(closed.reply_code, closed.reply_text) if closed else error
            raise boundary.refusal(answer) or answer from None
    tcp.end_handshake()
    return Link(connection, tcp, boundary, target.command_seconds)


async def _await_within(work: Awaitable[T], seconds: float) -> T:
    """Await a call of the client library in a task of its own.

    aiormq cancels its callers when a connection is lost; in a task of its own that cannot be taken
    for a cancellation of our caller. And if our caller is cancelled, the call is left to finish,
    rather than end with half of a message sent.

    Raises:
        asyncio.TimeoutError: it took longer.
    """
    token = _in_call.set(True)
    try:
        task = asyncio.ensure_future(work)
    finally:
        _in_call.reset(token)
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


def _is_wanted(record: logging.LogRecord) -> bool:
    """Leave out what aiormq logs in our calls: our callers report each error once, in their words.

    That the server blocks publishers stays in, since no call fails for it.
    """
    return not _in_call.get() or "blocked" in str(record.msg)


for _name in ("aiormq.connection", "aiormq.channel", "aiormq.base"):
    logging.getLogger(_name).addFilter(_is_wanted)
