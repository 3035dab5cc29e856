"""The queues of work and their delay queues: declared when they are first used."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dagster_taskiq.transport.rabbitmq import delays
from dagster_taskiq.transport.rabbitmq.channel import Channel
from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.messages import MAX_LEVEL
from dagster_taskiq.transport.rabbitmq.names import Names
from dagster_taskiq.transport.rabbitmq.records import QUEUES, Record, Records


class Queues:
    """Declares queues, and keeps a record of them, since AMQP has no command that lists them.

    A queue here is one that users name, or its run queue. For each there is one queue of the same
    name on the server, and one for each level of delay that has been used.
    """

    def __init__(self, connection: RabbitConnection, records: Records, names: Names) -> None:
        self._connection = connection
        self._records = records
        self._names = names

    async def declare(self, channel: Channel, queue: str) -> None:
        """Make sure that a queue exists and is in the record; asks once for each connection."""
        declared = await self._connection.declared()
        name = self._names.queue(queue)
        if name in declared:
            return
        await channel.declare_queue(name, arguments={"x-max-priority": MAX_LEVEL})
        noted = await self._records.change(QUEUES, lambda record: record.setdefault(queue, 1))
        declared.add(name)
        declared.discard(_binding(self._names.due_exchange, queue))
        if _levels(noted):
            # It may have been deleted and created again: delayed messages have to find it.
            await self._bind_due(channel, queue)

    async def declare_route(self, channel: Channel, queue: str, units: int) -> tuple[str, str]:
        """Declare all that a message passes on its way to a queue.

        Args:
            channel: on which to declare.
            queue: where the message is to wait for a worker.
            units: its delay, in units of ``delays.UNIT_SECONDS``.

        Returns:
            The exchange and the routing key to publish it with.
        """
        if not units:
            await self.declare(channel, queue)
            return "", self._names.queue(queue)
        # The sender of a delayed message does not learn that its queue has been deleted. So the
        # queue is declared with each one.
        (await self._connection.declared()).discard(self._names.queue(queue))
        await self.declare(channel, queue)
        levels = delays.levels_of(units)
        await self._declare_delays(channel, queue, levels)
        return self._names.delay_exchange(levels[0]), delays.routing_key(units, queue)

    async def forget_declared(self, queues: Iterable[str]) -> None:
        """Have queues, and all that leads to them, declared again: some have been deleted."""
        declared = await self._connection.declared()
        gone = (self._names.delays, *map(self._names.queue, queues))
        declared.difference_update([each for each in declared if each.startswith(gone)])

    async def used(self) -> dict[str, list[int]]:
        """Return the queues that were ever used, and the levels of delay used for each."""
        record = await self._records.read(QUEUES)
        return {queue: _levels(noted) for queue, noted in record.items()}

    def on_server(self, queue: str, levels: Sequence[int]) -> list[str]:
        """Return the names of a queue's delay queues and of itself, as messages pass them."""
        waits = [self._names.delay_queue(level, queue) for level in sorted(levels, reverse=True)]
        return [*waits, self._names.queue(queue)]

    async def _declare_delays(self, channel: Channel, queue: str, levels: Sequence[int]) -> None:
        """Declare what a message passes that is delayed by the sum of these levels."""
        declared = await self._connection.declared()
        await self._bind_due(channel, queue)
        await self._declare_delay_exchanges(channel, levels[0])
        missing = [
            level for level in levels if self._names.delay_queue(level, queue) not in declared
        ]
        if not missing:
            return

        def note(record: Record) -> None:
            record[queue] = sorted({*_levels(record.get(queue)), *missing})

        await self._records.change(QUEUES, note)
        for level in missing:
            name = self._names.delay_queue(level, queue)
            await channel.declare_queue(name, arguments=self._delay_arguments(level))
            pattern = delays.pattern_of_bit(level, 1, queue)
            await channel.bind(name, self._names.delay_exchange(level), pattern)
            declared.add(name)

    async def _declare_delay_exchanges(self, channel: Channel, highest: int) -> None:
        """Declare the exchanges of all levels up to one, each bound to the next lower one."""
        declared = await self._connection.declared()
        for level in range(highest + 1):
            exchange = self._names.delay_exchange(level)
            if exchange not in declared:
                await channel.declare_exchange(exchange, kind="topic")
                pattern = delays.pattern_of_bit(level, 0)
                await channel.bind_exchange(self._next_exchange(level), exchange, pattern)
                declared.add(exchange)

    async def _bind_due(self, channel: Channel, queue: str) -> None:
        """Lead delayed messages that are due to their queue."""
        declared = await self._connection.declared()
        exchange = self._names.due_exchange
        binding = _binding(exchange, queue)
        if binding in declared:
            return
        await channel.declare_exchange(exchange, kind="topic")
        await channel.bind(self._names.queue(queue), exchange, delays.pattern_of_queue(queue))
        declared.add(binding)

    def _delay_arguments(self, level: int) -> Mapping[str, Any]:
        return {
            "x-message-ttl": delays.wait_of(level),
            "x-dead-letter-exchange": self._next_exchange(level),
        }

    def _next_exchange(self, level: int) -> str:
        """Return the exchange to which messages go from that of a level, or from its queues."""
        return self._names.delay_exchange(level - 1) if level else self._names.due_exchange


def _binding(exchange: str, queue: str) -> str:
    """Return what stands for a binding among what has been declared."""
    return f"{exchange} > {queue}"


def _levels(noted: Any) -> list[int]:
    """Return the levels of delay of a queue, as the record has them: ``1`` stands for none."""
    return list(noted) if isinstance(noted, list) else []
