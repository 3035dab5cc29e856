"""The connection to a server, as brokers and backends of every kind have one."""

import asyncio
import time
from typing import Protocol

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.transport.error_boundary import ErrorBoundary

#: Seconds between the first and the last attempt to reach a server.
RETRY_SECONDS = 0.2
#: Seconds between two attempts to reach an unavailable broker: the first, and the longest.
RECONNECT_SECONDS = (0.1, 5.0)


class Connection(Protocol):
    """A server, opened once for all brokers and backends of a process that share it."""

    @property
    def boundary(self) -> ErrorBoundary:
        """Translates the errors of calls to this server."""

    async def open(self) -> None:
        """Connect, or count one more user of the connection."""

    async def close(self) -> None:
        """Disconnect when the last user closes."""


class Server(Protocol):
    """The part of a broker or backend that :func:`reach` needs."""

    connection: Connection

    async def ping(self) -> None:
        """Return when the server has answered."""


async def reach(server: Server, seconds: float) -> None:
    """Return when a server has answered.

    One failed attempt proves nothing: a connection may be cut just as it is made. There is a second
    one after ``RETRY_SECONDS``.

    Args:
        server: a broker or backend whose connection is open.
        seconds: how long both attempts may take together.

    Raises:
        ServerUnavailableError: the server did not answer.
        ConfigError: it refuses us, or an option is wrong.
    """
    deadline = time.monotonic() + seconds
    try:
        await _ping(server, seconds, seconds)
    except ServerUnavailableError:
        left = deadline - time.monotonic() - RETRY_SECONDS
        if left <= 0:
            raise
        await asyncio.sleep(RETRY_SECONDS)
        await _ping(server, left, seconds)


async def _ping(server: Server, left: float, seconds: float) -> None:
    try:
        await asyncio.wait_for(server.ping(), left)
    except asyncio.TimeoutError:
        raise server.connection.boundary.unavailable(f"no answer within {seconds:g} s") from None
