"""The broker on RabbitMQ: a durable priority queue for each queue, and one for its runs.

taskiq-aio-pika's broker is pushed messages: two for each of its queues by the smallest prefetch,
so that one slot can sit on six of them while others are idle, and whatever runs is unacknowledged,
so that the server hands it out again after half an hour. Here a worker takes one message when a
slot is free (``basic.get``), and acknowledges it when its start is on record.

A message that was taken belongs to the connection of its taker. It is the server's again when that
connection ends: at once when the worker dies, after two missed heartbeats when it is frozen.
"""

import asyncio
import itertools
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelNotFoundEntity

from dagster_taskiq.brokers.base import Delivery, QueueBroker, QueueDepth
from dagster_taskiq.connections.rabbitmq import Channel, RabbitConnection, UnroutableError, sayable
from dagster_taskiq.connections.registers import ATTEMPTS, QUEUES, Record
from dagster_taskiq.settings import Settings

#: Priorities from the one to the other are told apart; what is beyond counts as the nearer one.
#: RabbitMQ keeps a queue for each level, and knows none below zero: they are sent shifted.
LOWEST_PRIORITY, HIGHEST_PRIORITY = -10, 10

#: A queue in which more wait than this is not searched for messages to discard: they would be kept
#: from the workers meanwhile. Those messages are dropped when their turn comes.
SEARCH_LIMIT = 1000
#: How many messages that were set aside are kept.
REJECTED_LIMIT = 1000
#: Of how many messages it is remembered here which queue they were put into.
REMEMBERED_PUTS = 10_000
#: How long it is remembered how often a message was handed out, in seconds.
ATTEMPT_SECONDS = 86400

_TASK_ID = "task_id"
#: Nanoseconds since the epoch, by the sender's clock.
_SENT_AT = "sent_at"


@dataclass
class _Held:
    """A message that this broker has taken, and the channel that it belongs to."""

    channel: Channel
    message: DeliveredMessage
    lane: str


class RabbitBroker(QueueBroker):
    """Queues of the server, read one message at a time; a listener waits for their bell."""

    def __init__(self, settings: Settings, connection: RabbitConnection | None = None) -> None:
        super().__init__(settings)
        self.connection: RabbitConnection = connection or RabbitConnection(
            settings.broker, settings.broker_options, settings.connect_timeout, settings.lease
        )
        self.connection_errors = self.connection.errors
        self._registers = self.connection.registers(settings.prefix)
        self._held: dict[str, _Held] = {}
        self._put_into: OrderedDict[str, str] = OrderedDict()
        self._handles = itertools.count(1)
        self._rung = asyncio.Event()
        self._bell_channel: Channel | None = None
        self._bell_queue = ""
        self._heard: set[str] = set()

    async def ping(self) -> None:
        """Ask the server; for a worker, see to it that its queues are there."""
        await self.connection.ping()
        if self.is_worker_process:
            async with self.connection.channel() as channel:
                for lane in self.lanes:
                    await self._declare(channel, lane)

    async def put(self, task_id: str, queue: str, priority: int, body: bytes) -> None:
        """Publish, and wait until the server has the message on disk."""
        level = min(max(priority, LOWEST_PRIORITY), HIGHEST_PRIORITY) - LOWEST_PRIORITY

        async def work() -> None:
            async with self.connection.channel() as channel:
                await self._declare(channel, queue)
                await channel.publish(
                    self._queue(queue),
                    body,
                    priority=level,
                    message_id=sayable(task_id),
                    headers={_TASK_ID: task_id, _SENT_AT: time.time_ns()},
                )
                await self._ring(channel, queue)

        try:
            await self.connection.again(work)
        except UnroutableError:
            # Somebody has deleted the queue since it was declared.
            (await self.connection.known()).discard(self._queue(queue))
            await work()
        self._put_into[task_id] = queue
        if len(self._put_into) > REMEMBERED_PUTS:
            self._put_into.popitem(last=False)

    async def claim(self) -> Delivery | None:
        """Take the head of each queue, keep the first of them, give the others back."""
        self._rung.clear()
        channel = await self.connection.lasting_channel(f"claims of {id(self)}")
        heads: list[_Held] = []
        try:
            for lane in self.open_lanes:
                await self._declare(channel, lane)
                message = await channel.get(self._queue(lane))
                if message is not None:
                    heads.append(_Held(channel, message, lane))
            if not heads:
                return None
            heads.sort(key=_rank)
            for each in heads[1:]:
                await channel.give_back(each.message)
                # Whoever found the queue empty meanwhile must look again.
                await self._ring(channel, each.lane)
            return await self._hand_out(heads[0])
        except ChannelNotFoundEntity as error:
            known = await self.connection.known()
            known.difference_update(map(self._queue, self.open_lanes))
            raise ConnectionError(f"a queue has been deleted, and is made again: {error}") from None
        except BaseException:
            channel.discard()  # and with it whatever it holds goes back to where it was
            raise

    async def wait_for_work(self, timeout: float) -> None:
        """Wait for a bell; the bells of the queues are led to this listener the first time."""
        if await self._hang_up_bells():
            return  # something may have come before
        if self._bell_channel is not None:
            await self._bell_channel.wait_while_open(self._rung, timeout)

    async def acknowledge(self, delivery: Delivery) -> None:
        """Tell the server to delete the message."""
        held = self._held.pop(delivery.handle, None)
        if held is None or not held.channel.is_open:
            raise ConnectionError("the connection through which it came is gone")
        await held.channel.ack(held.message)
        await self._forget_attempts(held, delivery.task_id)

    async def release(self, delivery: Delivery) -> None:
        """Give the message back; nothing is to be done where the server has it already."""
        held = self._held.pop(delivery.handle, None)
        if held is None or not held.channel.is_open:
            return

        def not_counted(record: Record) -> None:
            count, _ = record.get(delivery.task_id, (0, 0))
            record[delivery.task_id] = [count - 1, time.time()]

        await self._registers.change(ATTEMPTS, not_counted)
        await held.channel.give_back(held.message)
        await self._ring(held.channel, held.lane)

    async def reject(self, delivery: Delivery, reason: str) -> None:
        """Move the message to the queue of those set aside, which keeps the last thousand."""
        held = self._held.pop(delivery.handle, None)
        if held is None or not held.channel.is_open:
            return
        queue = self._key("rejected")
        headers = {_TASK_ID: delivery.task_id, "queue": delivery.queue, "reason": reason}
        async with self.connection.channel() as channel:
            await self._declare_rejected(channel)
            await channel.publish(queue, delivery.body, headers=headers)
        await held.channel.ack(held.message)
        await self._forget_attempts(held, delivery.task_id)

    async def discard(self, task_ids: Sequence[str]) -> int:
        """Search the queues, and drop what is found there.

        Those that this process has put are looked for in their own queues; for others all queues
        are searched.
        """
        if not task_ids:
            return 0
        lanes = {self._put_into.pop(task_id, "") for task_id in task_ids}
        if "" in lanes:
            lanes = set(await self._lanes())
        found = 0
        for lane in sorted(lanes):
            found += await self._discard_from(lane, set(task_ids))
        return found

    async def depths(self) -> list[QueueDepth]:
        """Ask for each queue that was ever used; look at the first message of it for its age."""
        rows = []
        for lane in await self._lanes():
            async with self.connection.channel() as channel:
                try:
                    _, waiting = await channel.declare_queue(self._queue(lane), passive=True)
                except ChannelNotFoundEntity:
                    continue
                if not waiting:
                    continue
                head = await channel.get(self._queue(lane))
                age = 0.0
                if head is not None:
                    age = max(0.0, time.time() - _sent_at(head))
                    await channel.give_back(head)
                    await self._ring(channel, lane)
                rows.append(QueueDepth(lane, waiting, None, age))
        return sorted(rows, key=lambda row: row.queue)

    async def is_empty(self, queue: str) -> bool:
        """Ask for this queue alone; what has just been taken is not counted."""
        return not await self.connection.waiting_in(self._queue(queue))

    async def rejected(self) -> int:
        """Ask how many are in the queue of those set aside."""
        async with self.connection.channel() as channel:
            return await self._declare_rejected(channel)

    async def _hand_out(self, held: _Held) -> Delivery:
        message = held.message
        task_id = _task_id(message)
        attempt = 1
        if _was_handed_out(message):
            # The server says that it was taken before, not how often: whoever takes it counts.
            def counted(record: Record) -> int:
                now = time.time()
                for name, (_, at) in list(record.items()):
                    if at < now - ATTEMPT_SECONDS:
                        del record[name]
                count, _ = record.get(task_id, (0, 0))
                record[task_id] = [count + 1, now]
                return int(count) + 2

            attempt = await self._registers.change(ATTEMPTS, counted)
        handle = str(next(self._handles))
        self._held[handle] = held
        return Delivery(handle, task_id, held.lane, message.body, attempt)

    async def _forget_attempts(self, held: _Held, task_id: str) -> None:
        if _was_handed_out(held.message):
            await self._registers.change(ATTEMPTS, lambda record: record.pop(task_id, None))

    async def _discard_from(self, lane: str, task_ids: set[str]) -> int:
        queue = self._queue(lane)
        found = 0
        try:
            async with self.connection.channel() as channel:
                _, waiting = await channel.declare_queue(queue, passive=True)
                if waiting > SEARCH_LIMIT:
                    return 0
                last: DeliveredMessage | None = None
                for _ in range(waiting):
                    message = await channel.get(queue)
                    if message is None:
                        break
                    if _task_id(message) in task_ids:
                        await channel.ack(message)
                        found += 1
                    else:
                        last = message
                if last is not None:
                    await channel.give_back(last, and_all_before=True)
                    await self._ring(channel, lane)
        except ChannelNotFoundEntity:
            pass
        return found

    async def _declare(self, channel: Channel, lane: str) -> None:
        """Declare a queue, and note its name, since nobody can ask the server what it has."""
        known = await self.connection.known()
        queue = self._queue(lane)
        if queue in known:
            return
        levels = HIGHEST_PRIORITY - LOWEST_PRIORITY
        await channel.declare_queue(queue, arguments={"x-max-priority": levels})
        await self._registers.change(QUEUES, lambda record: record.setdefault(lane, 1))
        known.add(queue)

    async def _declare_rejected(self, channel: Channel) -> int:
        arguments = {"x-max-length": REJECTED_LIMIT}
        _, count = await channel.declare_queue(self._key("rejected"), arguments=arguments)
        return count

    async def _lanes(self) -> list[str]:
        return sorted(await self._registers.read(QUEUES))

    async def _ring(self, channel: Channel, lane: str) -> None:
        """Wake whoever waits for messages of this queue. Nobody need be there."""
        exchange = await self._bells(channel)
        await channel.publish(lane, b"", exchange=exchange, durable=False, must_arrive=False)

    async def _bells(self, channel: Channel) -> str:
        exchange = self._key("bell")
        known = await self.connection.known()
        if exchange not in known:
            await channel.declare_exchange(exchange)
            known.add(exchange)
        return exchange

    async def _hang_up_bells(self) -> bool:
        """Have the bells of all queues here ring here; return whether that is new for any."""
        channel = await self.connection.lasting_channel(f"bells of {id(self)}")
        if channel is not self._bell_channel:
            self._heard = set()
            # A new name each time: the old one is taken for as long as the server has not noticed
            # that the connection before is gone.
            self._bell_queue = self._key(f"bell:{self.consumer}:{uuid.uuid4().hex}")
            await channel.declare_queue(
                self._bell_queue, exclusive=True, arguments={"x-max-length": 1}
            )
            await channel.consume(self._bell_queue, self._on_bell)
            self._bell_channel = channel
        missing = set(self.lanes) - self._heard
        for lane in missing:
            await channel.bind(self._bell_queue, await self._bells(channel), lane)
            self._heard.add(lane)
        return bool(missing)

    async def _on_bell(self, message: DeliveredMessage) -> None:
        del message
        self._rung.set()

    def _queue(self, lane: str) -> str:
        return self._key(f"queue:{lane}")

    def _key(self, name: str) -> str:
        return f"{self.settings.prefix}:{name}"


def _rank(held: _Held) -> tuple[int, float]:
    """Return what orders messages of several queues: higher priority first, then older."""
    return -int(held.message.header.properties.priority or 0), _sent_at(held.message)


def _sent_at(message: DeliveredMessage) -> float:
    headers = message.header.properties.headers or {}
    at = headers.get(_SENT_AT)
    return at / 1e9 if isinstance(at, int) else 0.0


def _task_id(message: DeliveredMessage) -> str:
    headers = message.header.properties.headers or {}
    return str(headers.get(_TASK_ID) or message.header.properties.message_id or "")


def _was_handed_out(message: DeliveredMessage) -> bool:
    return bool(getattr(message.delivery, "redelivered", False))
