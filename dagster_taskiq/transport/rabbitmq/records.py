"""Records on RabbitMQ that many processes change, one at a time.

AMQP has queues and nothing else. So a record is a message, alone in a queue of its own: whoever
takes it has it alone, since nobody else can take it meanwhile; he puts the changed one into the
queue and acknowledges the old one in one transaction. When he dies, or is cut off, the server puts
the old one back, and his transaction can no longer come: a change is made as a whole or not at all,
and never by two at once.
"""

import asyncio
import json
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelLockedResource, ChannelNotFoundEntity

from dagster_taskiq.transport.background import look_at
from dagster_taskiq.transport.rabbitmq.connection import Channel, RabbitConnection

T = TypeVar("T")

#: A record: plain JSON.
Record = dict[str, Any]

#: Among how many records the tasks are spread: what one of them holds is written at each change.
TASK_SHARDS = 16
#: Which records there are, besides those of the tasks: the workers, the names of the queues, and
#: how often messages were handed out that nobody started.
WORKERS, QUEUES, ATTEMPTS = "workers", "queues", "attempts"

#: How long to wait for a record that somebody else has, in seconds: the first pause, the longest,
#: and all in all. One who is frozen has it until the server misses his heartbeat.
BUSY_SECONDS = (0.001, 0.02, 8.0)
#: How long to wait for somebody else who makes the records of a new prefix, in seconds.
MAKE_SECONDS = 30.0

#: The header in which a record says how often it has been changed.
_VERSION = "version"


def task_shard(task_id: str) -> str:
    """Return the name of the record that a task is in."""
    return f"tasks-{zlib.crc32(task_id.encode()) % TASK_SHARDS:02}"


NAMES = (*(f"tasks-{number:02}" for number in range(TASK_SHARDS)), WORKERS, QUEUES, ATTEMPTS)


class Registers:
    """The records of one prefix on one server."""

    def __init__(self, connection: RabbitConnection, prefix: str) -> None:
        self._connection = connection
        self._prefix = prefix
        self._making = asyncio.Lock()
        # The latest version of each that was seen here, on the connection of now.
        self._seen: dict[str, int] = {}
        # Those of one process take turns here, rather than look again and again.
        self._turns = {name: asyncio.Lock() for name in NAMES}

    async def read(self, name: str) -> Record:
        """Return a record as it is now.

        Raises:
            ServerUnavailableError: the server is away, or somebody has held it for long.
        """

        async def work() -> Record:
            async with self._connection.channel() as channel:
                held = await self._take(channel, name)
                await channel.give_back(held)
                return _loads(held)

        async with self._turns[name]:
            return await self._connection.again(work)

    async def change(self, name: str, by: Callable[[Record], T]) -> T:
        """Change a record, and return what ``by`` returned.

        Once it is begun it is brought to its end, whatever becomes of the caller meanwhile.

        Args:
            name: which one.
            by: changes it in place; called once more where the connection was lost before the
                change was sent.

        Raises:
            ServerUnavailableError: it is not known whether the change was made.
        """
        task = asyncio.ensure_future(self._change(name, by))
        task.add_done_callback(look_at)
        return await asyncio.shield(task)

    async def _change(self, name: str, by: Callable[[Record], T]) -> T:
        sent = False

        async def work() -> T:
            nonlocal sent
            async with self._connection.channel(transactional=True) as channel:
                held = await self._take(channel, name)
                record = _loads(held)
                outcome = by(record)
                body = _dumps(record)
                if body == held.body:
                    await channel.give_back(held)
                else:
                    version = {_VERSION: _version(held) + 1}
                    await channel.publish(self._queue(name), body, headers=version)
                    await channel.ack(held)
                    sent = True
                await channel.commit()
                return outcome

        async with self._turns[name]:
            return await self._connection.again(work, lambda: not sent)

    async def _take(self, channel: Channel, name: str) -> DeliveredMessage:
        await self._make_all()
        queue = self._queue(name)
        try:
            return await self._wait_for(channel, queue)
        except ChannelNotFoundEntity as error:
            # Not made anew here: a server of a cluster says the same while another one is down.
            raise self._connection.boundary.unavailable(
                f"the record {queue} is not on the server ({error}); if it has been deleted, "
                f"delete the exchange {self._exchange} too, and all are made anew"
            ) from None

    async def _wait_for(self, channel: Channel, queue: str) -> DeliveredMessage:
        pause, longest, limit = BUSY_SECONDS
        deadline = time.monotonic() + limit
        while True:
            message = await channel.get(queue)
            if message is not None:
                return await self._newest(channel, queue, message, deadline)
            if time.monotonic() > deadline:
                raise self._connection.boundary.unavailable(
                    f"somebody has held the record {queue} for {limit:g} s; if nobody does, and "
                    "its message is gone, delete the queue and the exchange "
                    f"{self._exchange}, and it is made anew"
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    async def _newest(
        self, channel: Channel, queue: str, message: DeliveredMessage, deadline: float
    ) -> DeliveredMessage:
        """Drop an older copy of the record, should there be one.

        A server that crashes in the middle of a commit may come back with both. The older one is
        first in the queue, and whoever takes it sees that there is another; he keeps it until he
        has that as well.
        """
        more = getattr(message.delivery, "message_count", 0)
        while more or _version(message) < self._seen.get(queue, 0):
            other = await channel.get(queue)
            if other is not None:
                older, message = sorted((message, other), key=_version)
                await channel.ack(older)
                more = getattr(other.delivery, "message_count", 0)
            elif time.monotonic() > deadline:
                raise self._connection.boundary.unavailable(
                    f"somebody holds the newer one of two records {queue}"
                )
            else:
                await asyncio.sleep(BUSY_SECONDS[1])
        self._seen[queue] = _version(message)
        return message

    async def _make_all(self) -> None:
        """See to it that all records are there; they are made together, by one process."""
        known = await self._connection.known()
        async with self._making:
            if self._exchange not in known:
                self._seen.clear()  # it may be another server, or one that has lost its data
                await self._make_or_wait()
                known.add(self._exchange)

    async def _make_or_wait(self) -> None:
        deadline = time.monotonic() + MAKE_SECONDS
        while not await self._are_made():
            try:
                await self._make()
            except ChannelLockedResource:
                if time.monotonic() > deadline:
                    raise self._connection.boundary.unavailable(
                        f"somebody has been making the records of {self._prefix} for "
                        f"{MAKE_SECONDS:g} s"
                    ) from None
                await asyncio.sleep(BUSY_SECONDS[1])

    async def _are_made(self) -> bool:
        try:
            async with self._connection.channel() as channel:
                await channel.declare_exchange(self._exchange, passive=True)
        except ChannelNotFoundEntity:
            return False
        return True

    async def _make(self) -> None:
        """Make every record, and then the exchange that says so.

        Whoever dies in between leaves no exchange, and the next one begins anew: nobody has used
        what he left.
        """
        async with self._connection.channel() as channel:
            lock, _ = await channel.declare_queue(f"{self._prefix}:making", exclusive=True)
            if not await self._are_made():
                for queue in map(self._queue, NAMES):
                    _, left = await channel.declare_queue(queue)
                    if left:
                        await channel.purge_queue(queue)
                    await channel.publish(queue, _dumps({}), headers={_VERSION: 0})
                await channel.declare_exchange(self._exchange)
            await channel.delete_queue(lock)

    @property
    def _exchange(self) -> str:
        return f"{self._prefix}:registers"

    def _queue(self, name: str) -> str:
        return f"{self._prefix}:register:{name}"


def _loads(message: DeliveredMessage) -> Record:
    record: Record = json.loads(zlib.decompress(message.body))
    return record


def _dumps(record: Record) -> bytes:
    return zlib.compress(json.dumps(record, separators=(",", ":")).encode(), 1)


def _version(message: DeliveredMessage) -> int:
    headers: Mapping[str, Any] = message.header.properties.headers or {}
    return int(headers.get(_VERSION, 0))


#: The records that are in use, by connection and prefix: the tasks of one process take turns at a
#: record only if they share this. Each holds its connection, whose ``id`` is therefore its own.
_in_use: WeakValueDictionary[tuple[int, str], Registers] = WeakValueDictionary()


def records_of(connection: RabbitConnection, prefix: str) -> Registers:
    """Return the records of a prefix, the same for all who share a connection."""
    return _in_use.setdefault((id(connection), prefix), Registers(connection, prefix))
