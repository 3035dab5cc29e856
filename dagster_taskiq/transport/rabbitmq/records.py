"""Records on a RabbitMQ that many processes change, one at a time.

AMQP has nothing but queues. So a record is one message in a queue of its own. A process that takes
the message has the record alone, since nothing else can take it meanwhile. To change it, the
process publishes the new version and acknowledges the old one, in one transaction. If the process
dies or loses its connection before that, the server requeues the old version, and the transaction
can no longer arrive. So a change is made as a whole or not at all, and never two at once.

A change writes the whole record, so what is kept for long is kept elsewhere: a change may move a
part of the record into another queue, in the same transaction (see ``ended_tasks``).
"""

import asyncio
import json
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelLockedResource, ChannelNotFoundEntity

from dagster_taskiq.transport.background import look_at
from dagster_taskiq.transport.rabbitmq.channel import Channel, Publication
from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.names import Names

T = TypeVar("T")


class Record(dict[str, Any]):
    """The content of a record: plain JSON, and bytes beside it."""

    rest: bytes = b""


#: Over how many records the tasks are spread: a change of one task writes the whole record it is
#: in.
TASK_SHARDS = 16
#: The other records: the workers, the names of the queues in use, and how often messages that were
#: not started have been delivered.
WORKERS, QUEUES, ATTEMPTS = "workers", "queues", "attempts"

#: How long to wait for a record that another process has taken, in seconds: the first pause, the
#: longest pause, and in total. A frozen process keeps it until the server misses its heartbeats.
BUSY_SECONDS = (0.001, 0.02, 8.0)
#: How long to wait for another process that creates the records of a new prefix, in seconds.
CREATE_SECONDS = 30.0

#: The header with the number of changes that a record has seen.
_VERSION = "version"


def task_shard(task_id: str) -> str:
    """Return the name of the record that a task is in."""
    return f"tasks-{zlib.crc32(task_id.encode()) % TASK_SHARDS:02}"


#: The names of the records of tasks.
TASK_RECORDS = tuple(f"tasks-{number:02}" for number in range(TASK_SHARDS))
#: The names of all records.
RECORD_NAMES = (*TASK_RECORDS, WORKERS, QUEUES, ATTEMPTS)


async def _read_nothing_more(_record: Record) -> None:
    pass


def _move_nothing(_record: Record) -> list[Publication]:
    return []


@dataclass(frozen=True)
class Around:
    """What is done before and after a change, while no other process can change the record."""

    #: Reads what the change needs besides the record, if anything.
    before: Callable[[Record], Awaitable[None]] = _read_nothing_more
    #: Removes from the record what is to be kept elsewhere, and returns the messages to keep it in.
    #: They are published in the transaction that writes the record.
    after: Callable[[Record], list[Publication]] = _move_nothing


#: Neither.
NOTHING_AROUND = Around()


class Records:
    """The records of one prefix on one server.

    Use :func:`records_of`: all users of a connection have to share one object.
    """

    def __init__(self, connection: RabbitConnection, prefix: str) -> None:
        self._connection = connection
        self._names = Names(prefix)
        self._creating = asyncio.Lock()
        # The latest version of each record seen on the present connection, by queue.
        self._seen: dict[str, int] = {}
        # Tasks of one process wait for each other here, rather than ask the server repeatedly.
        self._turns = {name: asyncio.Lock() for name in RECORD_NAMES}
        # The reads that wait for their turn: others that come meanwhile share them.
        self._reading: dict[str, asyncio.Future[Record]] = {}
        # The changes that wait for their turn, in order.
        self._waiting: dict[str, list[_Change]] = {name: [] for name in RECORD_NAMES}

    async def read(self, name: str) -> Record:
        """Return the present content of a record, which may be shared: it must not be changed.

        Args:
            name: one of ``RECORD_NAMES``.

        Raises:
            ServerUnavailableError: the server does not answer, or another process keeps the record.
        """
        reading = self._reading.get(name)
        if reading is None or reading.done():
            reading = self._reading[name] = asyncio.ensure_future(self._read(name))
            reading.add_done_callback(look_at)
        return await asyncio.shield(reading)

    async def _read(self, name: str) -> Record:
        async def work() -> Record:
            async with self._connection.channel() as channel:
                message = await self._take(channel, name)
                await channel.requeue(message)
                return _loads(message)

        async with self._turns[name]:
            # Whoever asks from now on wants to see what is changed from now on.
            self._reading.pop(name, None)
            return await self._connection.retry_if_lost(work)

    async def change(
        self, name: str, by: Callable[[Record], T], around: Around = NOTHING_AROUND
    ) -> T:
        """Change a record, and return what ``by`` returned.

        Changes that come while the record is being changed are made together after that, with one
        write. A change that has begun is completed even if the caller is cancelled meanwhile.

        Args:
            name: one of ``RECORD_NAMES``.
            by: changes the content in place; is called again if the connection was lost before the
                change was sent. If it raises an error, it has changed nothing.
            around: what is done before and after it.

        Raises:
            ServerUnavailableError: as :meth:`read`; the change may have been made.
        """
        change = _Change(by, around)
        self._waiting[name].append(change)
        task = asyncio.ensure_future(self._change_by_all(name))
        task.add_done_callback(look_at)
        await asyncio.shield(task)
        # It is answered: by that call, or by an earlier one that has made it too.
        outcome: T = change.outcome.result()
        return outcome

    async def _change_by_all(self, name: str) -> None:
        """Make the changes of a record that wait, if no other call has made them meanwhile."""
        async with self._turns[name]:
            changes, self._waiting[name] = self._waiting[name], []
            if not changes:
                return
            try:
                await self._change(name, changes)
            except Exception as error:
                for change in changes:
                    change.outcome.set_exception(error)
            except BaseException:
                for change in changes:
                    change.outcome.cancel()
                raise

    async def _change(self, name: str, changes: "Sequence[_Change]") -> None:
        sent = False

        async def work() -> None:
            nonlocal sent
            async with self._connection.channel(transactional=True) as channel:
                message = await self._take(channel, name)
                record = _loads(message)
                for change in changes:
                    await change.around.before(record)
                for change in changes:
                    change.make(record)
                moved = [each for change in changes for each in change.around.after(record)]
                body = _dumps(record)
                if body == message.body:
                    await channel.commit(requeue=[message])
                else:
                    sent = True
                    headers = {_VERSION: _version(message) + 1}
                    written = (self._names.record(name), body, {"headers": headers})
                    await channel.commit([*moved, written], ack=[message])

        await self._connection.retry_if_lost(work, lambda: not sent)
        for change in changes:
            change.answer()

    async def _take(self, channel: Channel, name: str) -> DeliveredMessage:
        """Take a record on a channel; create all records first if this prefix has none."""
        await self._create_all_once()
        queue = self._names.record(name)
        try:
            return await self._wait_for(channel, queue)
        except ChannelNotFoundEntity as error:
            # It is not created anew: a cluster answers the same while one of its nodes is down.
            raise self._connection.boundary.unavailable(
                f"the record {queue} is not on the server ({error}); if it has been deleted, "
                f"delete the exchange {self._names.records_exchange} too, and all records are "
                "created anew"
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
                    f"another process has held the record {queue} for {limit:g} s; if none does, "
                    "and its message is gone, delete the queue and the exchange "
                    f"{self._names.records_exchange}, and it is created anew"
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    async def _newest(
        self, channel: Channel, queue: str, message: DeliveredMessage, deadline: float
    ) -> DeliveredMessage:
        """Delete an older version of the record, if there is one.

        A server that crashes in the middle of a commit may come back with both versions. The older
        one is first in the queue. A process that takes it learns from the server's answer that
        there is another one, and keeps it until it has that one too.
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
                    f"another process holds the newer one of two records {queue}"
                )
            else:
                await asyncio.sleep(BUSY_SECONDS[1])
        self._seen[queue] = _version(message)
        return message

    async def _create_all_once(self) -> None:
        """Make sure that all records exist; asks the server once for each connection."""
        declared = await self._connection.declared()
        exchange = self._names.records_exchange
        async with self._creating:
            if exchange not in declared:
                self._seen.clear()  # it may be another server, or one that has lost its data
                await self._create_or_wait()
                declared.add(exchange)

    async def _create_or_wait(self) -> None:
        deadline = time.monotonic() + CREATE_SECONDS
        while not await self._exist():
            try:
                await self._create()
            except ChannelLockedResource:
                if time.monotonic() > deadline:
                    raise self._connection.boundary.unavailable(
                        f"another process has been creating the records of {self._names.prefix} "
                        f"for {CREATE_SECONDS:g} s"
                    ) from None
                await asyncio.sleep(BUSY_SECONDS[1])

    async def _exist(self) -> bool:
        try:
            async with self._connection.channel() as channel:
                await channel.declare_exchange(self._names.records_exchange, passive=True)
        except ChannelNotFoundEntity:
            return False
        return True

    async def _create(self) -> None:
        """Create every record, and then the exchange that marks them as complete, under a lock.

        A process that dies before the last step leaves no exchange, and the next one begins again:
        no process has used the records that are there.

        Raises:
            ChannelLockedResource: another process is creating them.
        """
        lock = self._names.records_lock
        async with self._connection.channel() as channel:
            await channel.declare_queue(lock, exclusive=True)
            if not await self._exist():
                for queue in map(self._names.ended, TASK_RECORDS):
                    if await channel.declare_queue(queue):
                        await channel.purge_queue(queue)
                for queue in map(self._names.record, RECORD_NAMES):
                    if await channel.declare_queue(queue):
                        await channel.purge_queue(queue)
                    await channel.publish(queue, _dumps(Record()), headers={_VERSION: 0})
                await channel.declare_exchange(self._names.records_exchange)
            await channel.delete_queue(lock)


class _Change:
    """One change of a record, which may be made together with others."""

    def __init__(self, by: Callable[[Record], Any], around: Around) -> None:
        self.around = around
        self._by = by
        self._answer: Callable[[], None] = lambda: None
        self.outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.outcome.add_done_callback(look_at)

    def make(self, record: Record) -> None:
        """Make the change in the content of a record; may be called again."""
        try:
            value = self._by(record)
        except Exception as error:
            self._answer = partial(self.outcome.set_exception, error)
        else:
            self._answer = partial(self.outcome.set_result, value)

    def answer(self) -> None:
        """Answer the caller, once the record has been written."""
        self._answer()


def _loads(message: DeliveredMessage) -> Record:
    packed = zlib.decompressobj()
    record = Record(json.loads(packed.decompress(message.body)))
    record.rest = packed.unused_data
    return record


def _dumps(record: Record) -> bytes:
    return zlib.compress(json.dumps(record, separators=(",", ":")).encode(), 1) + record.rest


def _version(message: DeliveredMessage) -> int:
    headers = message.header.properties.headers or {}
    version = headers.get(_VERSION)
    return version if isinstance(version, int) else 0


#: The records in use, by connection and prefix. Each ``Records`` holds its connection, so no other
#: connection gets the same ``id`` while it is here.
_in_use: WeakValueDictionary[tuple[int, str], Records] = WeakValueDictionary()


def records_of(connection: RabbitConnection, prefix: str) -> Records:
    """Return the records of a prefix, the same object for all users of a connection.

    Only users of one object take turns without asking the server.
    """
    return _in_use.setdefault((id(connection), prefix), Records(connection, prefix))
