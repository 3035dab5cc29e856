"""One connection on which commands are sent before those before them are answered.

redis-py takes a connection out of its pool for each command, and looks after each by itself: its
time limit, its state, its retry. That is a third of what a small task costs the first process of a
worker. Here all scripts of a process share one connection: those that are due in one round of the
event loop are one write and one read. redis-py makes the connection, with all that belongs to that:
TLS, user and password, sentinels. What is large is left to redis-py, on a connection for itself: on
a slow line, heartbeats would have to wait behind a result.
"""

import asyncio
from collections import deque
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError, ReadOnlyError, TimeoutError

from dagster_taskiq.transport.redis.cancellation import in_own_task
from dagster_taskiq.transport.redis.replies import Replies, pack, unpacked

#: The pause before a command is sent again whose connection was lost, in seconds.
RETRY_SECONDS = 0.05
#: The largest command that shares the connection, in bytes.
LARGEST_SHARED = 1 << 16
#: How often it is looked whether anything has been sent, in each time limit.
_LOOKS = 4


class Pipelined:
    """The connection of one process for its scripts, which is made anew when it is lost."""

    def __init__(self, client: "Redis") -> None:
        """Connect when the first command is sent.

        Args:
            client: sends what is large. Its pool makes the connections, and closes them when it is
                closed.
        """
        self._client = client
        self._pool = client.connection_pool
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()

    async def run(self, *command: Any) -> Any:
        """Send a command, and return its reply; if the connection is lost, once more.

        Raises:
            RedisError: what redis-py raises too: the reply is an error, or there is none.
        """
        packed = pack(command)
        if len(packed) > LARGEST_SHARED:
            execute: Any = self._client.execute_command
            return await execute(*unpacked(command))
        link = self._link
        if link is None or not link.is_usable:
            link = await in_own_task(self._connect())
        try:
            return await link.send(packed)
        except (ConnectionError, ReadOnlyError):
            # Of a server that is not the master any more, too: a sentinel knows who is.
            await asyncio.sleep(RETRY_SECONDS)
        link = await in_own_task(self._connect())
        return await link.send(packed)

    async def _connect(self) -> "_Link":
        async with self._connecting:
            if self._link is not None:
                if self._link.is_usable:
                    return self._link
                await self._give_up(self._link)
                self._link = None
            connection = await self._pool.get_connection()
            try:
                self._link = _Link(connection)
            except ConnectionError:
                await self._pool.release(connection)
                raise
            return self._link

    async def _give_up(self, link: "_Link") -> None:
        await link.connection.disconnect(nowait=True)
        await self._pool.release(link.connection)


class _Link(asyncio.Protocol):
    """One connection that redis-py has made, until it is lost."""

    def __init__(self, connection: AbstractConnection) -> None:
        """Take over what comes in on a connection."""
        self.connection = connection
        self._loop = asyncio.get_running_loop()
        reader, writer = connection._reader, connection._writer
        if reader is None or writer is None:
            raise ConnectionError("The connection was closed as it was made.")
        self._transport = writer.transport
        #: That of redis-py, which waits for the end of the connection.
        self._before = self._transport.get_protocol()
        self._transport.set_protocol(self)
        self._replies = Replies()
        # What has come in until now, its end too, was for the reader of redis-py.
        self._is_lost = self._transport.is_closing() or reader.at_eof()
        self._outgoing: list[bytes] = []
        #: The commands that are not answered yet, each with the time at which it was sent.
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._last_sent = self._loop.time()
        #: When anything was last received, or sent of what could not be sent at once.
        self._progress_at = self._last_sent
        #: How much was written; of that, how much had been sent at the last look, and whether some
        #: was left then.
        self._written = self._sent = 0
        self._was_held_up = False
        self._timeout: float | None = connection.socket_timeout
        self._idle_seconds: float = connection.health_check_interval
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_usable(self) -> bool:
        """Whether commands may be sent on it.

        Not when it was idle for as long as redis-py checks a connection after: a firewall may have
        dropped it.
        """
        if self._is_lost or self._waiting or not self._idle_seconds:
            return not self._is_lost
        return self._loop.time() - self._last_sent <= self._idle_seconds

    def send(self, packed: bytes) -> "asyncio.Future[Any]":
        """Send a command, with others that are sent in this round of the event loop.

        Returns:
            Its reply, when that is there.

        Raises:
            ConnectionError: the connection is lost by now, which may be as soon as it is made.
        """
        if self._is_lost:
            raise ConnectionError("The connection was lost before the command was sent.")
        answer = self._loop.create_future()
        self._last_sent = self._loop.time()
        self._waiting.append((answer, self._last_sent))
        if not self._outgoing:
            self._loop.call_soon(self._write)
        self._outgoing.append(packed)
        if self._timer is None and self._timeout is not None:
            self._look_again(self._timeout, self._timeout)
        return answer

    def data_received(self, data: bytes) -> None:
        """Give each reply to who waits for it (asyncio's own hook)."""
        self._progress_at = self._loop.time()
        try:
            replies = self._replies.feed(data)
        except ValueError as error:
            self._end(f"This is no Redis: {error}")
            return
        for reply in replies:
            if not self._waiting:
                self._end("There was a reply to no command.")
                return
            answer, _ = self._waiting.popleft()
            if not isinstance(reply, Exception):
                if not answer.done():  # who waited may have been cancelled
                    answer.set_result(reply)
                continue
            if not answer.done():
                answer.set_exception(reply)
            if isinstance(reply, ConnectionError | ReadOnlyError):
                # The server takes none of our commands on it, or is the wrong one by now.
                self._end("The connection is not used any more.")
                return

    def connection_lost(self, error: Exception | None) -> None:
        """Let those know who wait (asyncio's own hook)."""
        self._end(f"The connection was lost: {error or 'it was closed'}")
        self._before.connection_lost(error)

    def _write(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if not self._is_lost:
            data = outgoing[0] if len(outgoing) == 1 else b"".join(outgoing)
            self._written += len(data)
            self._transport.write(data)

    def _look_again(self, timeout: float, left: float) -> None:
        seconds = min(left, timeout / _LOOKS)
        self._timer = self._loop.call_later(seconds, self._check_time, timeout)

    def _check_time(self, timeout: float) -> None:
        """End the connection if nothing comes and goes for too long, else look again.

        As with redis-py, the limit is not for a whole command, which a slow line may delay.
        """
        self._timer = None
        if not self._waiting:
            return
        now = self._loop.time()
        sent = self._written - self._transport.get_write_buffer_size()
        # What the system takes at once says nothing: that goes for a server that hangs, too.
        if sent > self._sent and self._was_held_up:
            self._progress_at = now
        self._sent, self._was_held_up = sent, sent < self._written
        answer, sent_at = self._waiting[0]
        left = max(sent_at, self._progress_at) + timeout - now
        if left > 0:
            self._look_again(timeout, left)
            return
        if not answer.done():
            answer.set_exception(TimeoutError("Timeout reading from the server"))
        # Those that came later have their own time, on another connection.
        self._end("The server does not answer.")

    def _end(self, why: str) -> None:
        """Use the connection no more; what is not answered has failed."""
        self._is_lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, deque()
        for answer, _ in waiting:
            if not answer.done():
                answer.set_exception(ConnectionError(why))
        self._transport.abort()
