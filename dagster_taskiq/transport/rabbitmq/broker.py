"""The broker on RabbitMQ: a durable priority queue for each queue, and one for its runs.

taskiq-aio-pika's broker is pushed messages: two for each of its queues by the smallest prefetch,
so that one slot can sit on six of them while others are idle, and whatever runs is unacknowledged,
so that the server hands it out again after half an hour. Here a worker takes one message when a
slot is free (``basic.get``), and acknowledges it when its start is on record.

What is delayed waits in queues of its own (see ``delays``), and nobody has to do anything for it to
come to its lane in time.

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
from typing import Any

from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelNotFoundEntity

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import IDLE_LOOK_SECONDS, Delivery, Outgoing, QueueBroker
from dagster_taskiq.transport.rabbitmq import delays
from dagster_taskiq.transport.rabbitmq.connection import (
    Channel,
    RabbitConnection,
    UnroutableError,
    sayable,
)
from dagster_taskiq.transport.rabbitmq.records import ATTEMPTS, QUEUES, Record, records_of
from dagster_taskiq.wire.queues import QueueDepth

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
#: How many bells are kept for a listener who does not read them, so that he finds the first queues
#: that rang; the others he finds within a second.
MOST_BELLS = 100
#: How long it is remembered how often a message was handed out, in seconds.
ATTEMPT_SECONDS = 86400

_TASK_ID = "task_id"
#: Nanoseconds since the epoch, by the sender's clock: when it was sent, or is due.
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
        self._registers = records_of(self.connection, settings.prefix)
        self._held: dict[str, _Held] = {}
        # The lane, and whether it was delayed.
        self._put_into: OrderedDict[str, tuple[str, bool]] = OrderedDict()
        self._handles = itertools.count(1)
        self._rung = asyncio.Event()
        self._bell_channel: Channel | None = None
        self._bell_queue = ""
        self._heard: set[str] = set()
        # The lanes that had nothing when they were last looked at, and whose bell has not rung
        # since; and when all were looked at, of ``time.monotonic()``.
        self._empty: set[str] = set()
        self._looked_at = 0.0

    async def ping(self) -> None:
        """Ask the server; for a worker, see to it that its queues are there."""
        await self.connection.ping()
        if self.is_worker_process:
            async with self.connection.channel() as channel:
                for lane in self.all_queues:
                    await self._declare(channel, lane)

    async def put_all(self, messages: Sequence[Outgoing]) -> None:
        """Publish, and wait until the server has the messages on disk."""
        places = [(each.queue, delays.units_of(each.delay)) for each in messages]

        async def work() -> None:
            async with self.connection.channel() as channel:
                ways = [await self._way(channel, *place) for place in places]
                # One after the other, but the server need not have confirmed the one before.
                await asyncio.gather(
                    *(
                        self._publish(channel, way, each)
                        for way, each in zip(ways, messages, strict=True)
                    )
                )
                for lane in {lane for lane, units in places if not units}:
                    await self._ring(channel, lane)

        try:
            await self.connection.again(work)
        except UnroutableError:
            # Somebody has deleted a queue since it was declared.
            known = await self.connection.known()
            ours = (self._delay(""), *(self._queue(lane) for lane, _ in places))
            known.difference_update([each for each in known if each.startswith(ours)])
            await work()
        for each, (lane, units) in zip(messages, places, strict=True):
            self._put_into[each.task_id] = (lane, units > 0)
        while len(self._put_into) > REMEMBERED_PUTS:
            self._put_into.popitem(last=False)

    async def claim(self) -> Delivery | None:
        """Take the head of each queue, keep the first of them, give the others back."""
        self._empty.clear()
        return await self.claim_next()

    async def claim_next(self) -> Delivery | None:
        """Claim, but for a second after a queue was found empty look there only if it rings."""
        if time.monotonic() - self._looked_at >= IDLE_LOOK_SECONDS:
            self._empty.clear()
            self._looked_at = time.monotonic()
        self._rung.clear()
        channel = await self.connection.lasting_channel(f"claims of {id(self)}")
        heads: list[_Held] = []
        try:
            for lane in self.open_queues:
                if lane in self._empty:
                    continue
                await self._declare(channel, lane)
                if lane in self._heard:
                    self._empty.add(lane)  # what comes from here on rings
                message = await channel.get(self._queue(lane))
                if message is not None:
                    heads.append(_Held(channel, message, lane))
                    if getattr(message.delivery, "message_count", 1):
                        self._empty.discard(lane)
            if not heads:
                return None
            heads.sort(key=_rank)
            for each in heads[1:]:
                self._empty.discard(each.lane)
                await channel.give_back(each.message)
                # Whoever found the queue empty meanwhile must look again.
                await self._ring(channel, each.lane)
            return await self._hand_out(heads[0])
        except ChannelNotFoundEntity as error:
            known = await self.connection.known()
            known.difference_update(map(self._queue, self.open_queues))
            raise self.connection.boundary.unavailable(
                f"a queue has been deleted, and is made again: {error}"
            ) from None
        except BaseException:
            self._empty.clear()
            channel.discard()  # and with it whatever it holds goes back to where it was
            raise

    async def wait_for_work(self, timeout: float) -> None:
        """Wait for a bell; the bells of the queues are led to this listener the first time."""
        if await self._hang_up_bells():
            return  # something may have come before
        if self._bell_channel is not None:
            await self._bell_channel.wait_while_open(self._rung, timeout)
        if not self._rung.is_set():
            self._empty.clear()

    async def acknowledge(self, delivery: Delivery) -> None:
        """Tell the server to delete the message."""
        held = self._held.pop(delivery.handle, None)
        if held is None or not held.channel.is_open:
            raise self.connection.boundary.unavailable(
                "the connection through which the message came is gone"
            )
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
        self._empty.discard(held.lane)
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
        places = [self._put_into.pop(task_id, None) for task_id in task_ids]
        ours = {place for place in places if place is not None}
        if None in places:
            lanes = await self._lanes()
        elif any(delayed for _, delayed in ours):
            used = await self._lanes()
            lanes = {lane: used.get(lane, []) for lane, _ in ours}
        else:
            lanes = {lane: [] for lane, _ in ours}
        found = 0
        for lane in sorted(lanes):
            for queue in self._queues(lane, lanes[lane]):
                found += await self._discard_from(queue, lane, set(task_ids))
        return found

    async def depths(self) -> list[QueueDepth]:
        """Ask for each queue that was ever used; look at the first message of it for its age."""
        rows = []
        for lane, levels in sorted((await self._lanes()).items()):
            counts = [await self.connection.waiting_in(each) for each in self._queues(lane, levels)]
            waiting = sum(count or 0 for count in counts)
            if waiting:
                age = await self._oldest_age(lane) if counts[-1] else 0.0
                rows.append(QueueDepth(lane, waiting, None, age))
        return rows

    async def is_empty(self, queue: str) -> bool:
        """Ask for this queue alone; what has just been taken is not counted."""
        levels = (await self._lanes()).get(queue, [])
        for each in self._queues(queue, levels):
            if await self.connection.waiting_in(each):
                return False
        return True

    async def rejected(self) -> int:
        """Ask how many are in the queue of those set aside."""
        async with self.connection.channel() as channel:
            return await self._declare_rejected(channel)

    async def _publish(self, channel: Channel, way: tuple[str, str], message: Outgoing) -> None:
        level = min(max(message.priority, LOWEST_PRIORITY), HIGHEST_PRIORITY) - LOWEST_PRIORITY
        due_at = time.time_ns() + int(message.delay * 1e9)
        exchange, key = way
        await channel.publish(
            key,
            message.body,
            exchange=exchange,
            priority=level,
            message_id=sayable(message.task_id),
            headers={_TASK_ID: message.task_id, _SENT_AT: due_at},
        )

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

    async def _oldest_age(self, lane: str) -> float:
        async with self.connection.channel() as channel:
            head = await channel.get(self._queue(lane))
            if head is None:
                return 0.0
            await channel.give_back(head)
            await self._ring(channel, lane)
        return max(0.0, time.time() - _sent_at(head))

    async def _discard_from(self, queue: str, lane: str, task_ids: set[str]) -> int:
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
        noted = await self._registers.change(QUEUES, lambda record: record.setdefault(lane, 1))
        known.add(queue)
        known.discard(self._led(lane))
        if _levels(noted):
            # It may have been deleted, and made anew just now: what is delayed must find it.
            await self._lead_to(channel, lane)

    async def _way(self, channel: Channel, lane: str, units: int) -> tuple[str, str]:
        """Declare what a message goes through; return the exchange it begins at, and its key."""
        if not units:
            await self._declare(channel, lane)
            return "", self._queue(lane)
        # Nobody will be told when it arrives and its queue has been deleted: so that is looked at.
        (await self.connection.known()).discard(self._queue(lane))
        await self._declare(channel, lane)
        levels = delays.levels_of(units)
        await self._declare_delays(channel, lane, levels)
        return self._delay_exchange(levels[0]), delays.routing_key(units, lane)

    async def _declare_delays(self, channel: Channel, lane: str, levels: Sequence[int]) -> None:
        """Declare what a message goes through that is delayed by the sum of these levels."""
        known = await self.connection.known()
        await self._lead_to(channel, lane)
        for level in range(levels[0] + 1):
            exchange, after = self._delay_exchange(level), self._delay_exchange(level - 1)
            if exchange not in known:
                await channel.declare_exchange(exchange, kind="topic")
                await channel.bind_exchange(after, exchange, delays.keys_with(level, 0))
                known.add(exchange)
        missing = [level for level in levels if self._delay_queue(level, lane) not in known]

        def note(record: Record) -> None:
            record[lane] = sorted({*_levels(record.get(lane)), *missing})

        if missing:
            await self._registers.change(QUEUES, note)
        for level in missing:
            queue = self._delay_queue(level, lane)
            arguments = {
                "x-message-ttl": delays.wait_of(level),
                "x-dead-letter-exchange": self._delay_exchange(level - 1),
            }
            await channel.declare_queue(queue, arguments=arguments)
            key = delays.keys_with(level, 1, lane)
            await channel.bind(queue, self._delay_exchange(level), key)
            known.add(queue)

    async def _lead_to(self, channel: Channel, lane: str) -> None:
        """Lead what is due to its lane."""
        known = await self.connection.known()
        if self._led(lane) in known:
            return
        exchange = self._delay_exchange(-1)
        await channel.declare_exchange(exchange, kind="topic")
        await channel.bind(self._queue(lane), exchange, delays.keys_to(lane))
        known.add(self._led(lane))

    async def _declare_rejected(self, channel: Channel) -> int:
        arguments = {"x-max-length": REJECTED_LIMIT}
        _, count = await channel.declare_queue(self._key("rejected"), arguments=arguments)
        return count

    async def _lanes(self) -> dict[str, list[int]]:
        """Return the lanes that were ever used, and by how long messages were delayed in each."""
        record = await self._registers.read(QUEUES)
        return {lane: _levels(noted) for lane, noted in record.items()}

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
            self._empty = set()
            # A new name each time: the old one is taken for as long as the server has not noticed
            # that the connection before is gone.
            self._bell_queue = self._key(f"bell:{self.consumer}:{uuid.uuid4().hex}")
            await channel.declare_queue(
                self._bell_queue, exclusive=True, arguments={"x-max-length": MOST_BELLS}
            )
            await channel.consume(self._bell_queue, self._on_bell)
            self._bell_channel = channel
        missing = set(self.all_queues) - self._heard
        for lane in missing:
            await channel.bind(self._bell_queue, await self._bells(channel), lane)
            self._heard.add(lane)
        return bool(missing)

    async def _on_bell(self, message: DeliveredMessage) -> None:
        self._empty.discard(message.routing_key or "")
        self._rung.set()

    def _queue(self, lane: str) -> str:
        return self._key(f"queue:{lane}")

    def _queues(self, lane: str, levels: Sequence[int]) -> list[str]:
        """Return all queues of a lane, in the order in which messages go through them."""
        waits = [self._delay_queue(level, lane) for level in sorted(levels, reverse=True)]
        return [*waits, self._queue(lane)]

    def _delay_queue(self, level: int, lane: str) -> str:
        return self._delay(f"{level}:{lane}")

    def _delay_exchange(self, level: int) -> str:
        """Return the exchange that looks at a level; the one after the lowest leads to lanes."""
        return self._delay(str(level) if level >= 0 else "due")

    def _led(self, lane: str) -> str:
        """Return what stands, among what is declared, for the way from delays to a lane."""
        return f"{self._delay_exchange(-1)} > {lane}"

    def _delay(self, name: str) -> str:
        return self._key(f"delay:{name}")

    def _key(self, name: str) -> str:
        return f"{self.settings.prefix}:{name}"


def _levels(noted: Any) -> list[int]:
    """Return the levels of delay that a lane has queues for, as they are noted beside its name."""
    return list(noted) if isinstance(noted, list) else []


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
