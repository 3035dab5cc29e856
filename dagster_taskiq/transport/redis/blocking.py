"""Commands that the server answers when there is something, each on a connection for itself.

redis-py ends a read after ``socket_timeout``, which is for commands that are answered at once.
Here the server may wait for longer than that, so that who waits for long sends few commands. A
connection that is cut meanwhile is noticed by the keepalive probes of the operating system.
"""

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError, ReadOnlyError

from dagster_taskiq.transport.redis.cancellation import in_own_task
from dagster_taskiq.transport.redis.pipelined import RETRY_SECONDS


class Blocking:
    """Sends the commands of one process with which the server waits."""

    def __init__(self, client: "Redis", most: float, timeout: float | None) -> None:
        """Send nothing yet.

        Args:
            client: its pool makes the connections, and closes them when it is closed.
            most: the longest that the server is asked to wait, in seconds.
            timeout: how much longer its answer is waited for, in seconds; ``None`` for the client's
                own time limit of a read, which then has to be longer than ``most``.
        """
        self._pool = client.connection_pool
        self._most = most
        self._timeout = timeout

    async def pop(self, lists: list[str], seconds: float) -> bool:
        """Remove the first entry of the first list that has any; wait for one.

        Args:
            lists: the names of the lists.
            seconds: how long to wait at most; the server waits for less than that if it is long.

        Returns:
            Whether there was one.

        Raises:
            RedisError: what redis-py raises too.
        """
        seconds = min(seconds, self._most)
        return await self._send(seconds, "BLPOP", *lists, seconds) is not None

    async def read(self, stream: str, after: str, seconds: float) -> list[Any]:
        """Return the entries of a stream after an id, each as id and fields; wait for the first.

        Args:
            stream: its name.
            after: the id.
            seconds: as :meth:`pop`; if it is 0, nothing is waited for.

        Raises:
            RedisError: what redis-py raises too.
        """
        milliseconds = int(min(seconds, self._most) * 1000)
        block = ["BLOCK", milliseconds] if milliseconds > 0 else []  # 0 is for ever
        reply = await self._send(milliseconds / 1000, "XREAD", *block, "STREAMS", stream, after)
        # A list of pairs, or a map in the newer version of the protocol; of one stream here.
        found = reply.values() if isinstance(reply, dict) else [pair[1] for pair in reply or ()]
        return [entry for entries in found for entry in entries]

    async def _send(self, seconds: float, *command: Any) -> Any:
        try:
            return await in_own_task(self._send_once(seconds, *command))
        except (ConnectionError, ReadOnlyError):
            # Of a server that is not the master any more, too: a sentinel knows who is.
            await asyncio.sleep(RETRY_SECONDS)
        return await in_own_task(self._send_once(seconds, *command))

    async def _send_once(self, seconds: float, *command: Any) -> Any:
        connection = await self._pool.get_connection()
        has_answered = False
        try:
            await connection.send_command(*command)
            limit = None if self._timeout is None else seconds + self._timeout
            reply = await connection.read_response(timeout=limit)
            has_answered = True
        finally:
            if not has_answered:  # what it is sent later must not be taken for another answer
                await connection.disconnect(nowait=True)
            await self._pool.release(connection)
        return reply
