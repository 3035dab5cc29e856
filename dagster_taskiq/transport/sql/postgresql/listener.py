"""A connection to PostgreSQL that receives notifications without blocking the event loop.

psycopg2 calls this its asynchronous mode: it is told when the socket is ready, by ``poll()``.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from psycopg2.extensions import POLL_OK, POLL_READ

#: How long connecting, or one statement, may take, in seconds.
STATEMENT_SECONDS = 15.0


class PostgresqlListener:
    """The connection, while it is open. Every method raises ``psycopg2.Error`` if it is lost."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        #: Set when there is something to read, or the caller wants to be woken.
        self.stirred = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, connect: Callable[[], Any]) -> AsyncIterator["PostgresqlListener"]:
        """Connect, and disconnect at the end.

        Args:
            connect: begins a connection in asynchronous mode; blocks while it looks up names.

        Raises:
            TimeoutError: the server did not answer within ``STATEMENT_SECONDS``.
        """
        connection = await asyncio.to_thread(connect)
        listener = cls(connection)
        try:
            await listener._until_done()
            yield listener
        finally:
            if not connection.closed:
                listener._unwatch(connection.fileno())
            connection.close()

    async def execute(self, statement: str) -> None:
        """Execute a statement.

        Raises:
            TimeoutError: it took longer than ``STATEMENT_SECONDS``.
        """
        cursor = self._connection.cursor()  # has to be there until the statement is done
        cursor.execute(statement)
        await self._until_done()

    async def wait(self) -> None:
        """Return when there is something to read, or ``stirred`` is set."""
        fd = self._connection.fileno()
        self._loop.add_reader(fd, self.stirred.set)
        try:
            await self.stirred.wait()
        finally:
            self._unwatch(fd)
        self.stirred.clear()

    def take(self) -> set[str]:
        """Return the channels of the notifications that have come since the last call."""
        self._connection.poll()
        received = self._connection.notifies
        channels = {each.channel for each in received}
        received.clear()
        return channels

    async def _until_done(self) -> None:
        # asyncio.wait_for of Python 3.10 and 3.11 may ignore a cancellation.
        with anyio.fail_after(STATEMENT_SECONDS):
            await self._poll()

    async def _poll(self) -> None:
        while (state := self._connection.poll()) != POLL_OK:
            fd, ready = self._connection.fileno(), self._loop.create_future()
            watch = self._loop.add_reader if state == POLL_READ else self._loop.add_writer
            watch(fd, _set, ready)
            try:
                await ready
            finally:
                self._unwatch(fd)

    def _unwatch(self, fd: int) -> None:
        if not self._loop.is_closed():
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)


def _set(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
