"""The tasks of users' own that have ended, with their results: few to a message, in a queue.

A record is written as a whole with each change, so it must not hold all tasks that are remembered.
Those that have ended are moved out of it, some at a time, in the transaction of a change: into a
message that expires, in a queue that each record has for that. They do not change there. Who looks
for one holds the record, and so nobody else looks into that queue meanwhile.
"""

import json
import time
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from aiormq.abc import DeliveredMessage

from dagster_taskiq.transport.rabbitmq.channel import Channel, Publication
from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.ended_ids import EndedIds
from dagster_taskiq.transport.rabbitmq.names import Names
from dagster_taskiq.transport.rabbitmq.records import Record
from dagster_taskiq.transport.rabbitmq.task_table import RESULT, Fields, TaskTable
from dagster_taskiq.wire.records import Task, TaskState

#: How many ended tasks, and how many characters of results, a record has room for.
ROOM_TASKS, ROOM_RESULTS = 8, 4096
#: In how many periods the digests of ids expire, of the time for which tasks are remembered.
PERIODS = 8
#: The longest time after which a message can expire, in milliseconds.
LONGEST_EXPIRY = 2**32 - 1
#: How many of those that were found are kept for who asks again, and for how long, in seconds.
KEPT_FOUND, KEPT_SECONDS = 10_000, 5.0


class EndedTasks:
    """The ended tasks of all records."""

    def __init__(self, connection: RabbitConnection, names: Names, keep_seconds: float) -> None:
        """Prepare; nothing is sent yet.

        Args:
            connection: to the server.
            names: the names under the prefix.
            keep_seconds: how long a task is kept after it has ended.
        """
        self._connection = connection
        self._names = names
        self._keep_seconds = keep_seconds
        self._expiration = str(min(max(1000, int(keep_seconds * 1000)), LONGEST_EXPIRY))
        # Those that were found, and until when they count; the oldest first.
        self._found: OrderedDict[str, tuple[Fields, float]] = OrderedDict()

    async def declare(self, shard: str) -> None:
        """Make sure that the queue of a record exists; asks once for each connection.

        A transaction does not report that what it publishes has no queue.
        """
        declared = await self._connection.declared()
        queue = self._names.ended(shard)
        if queue not in declared:
            async with self._connection.channel() as channel:
                await channel.declare_queue(queue)
            declared.add(queue)

    def move_out(self, shard: str, record: Record) -> list[Publication]:
        """Move the ended tasks out of a record, if it has no room for more of them.

        Args:
            shard: the name of the record.
            record: its content, which is about to be written.

        Returns:
            The messages to be published with it.
        """
        now, ids = time.time(), EndedIds(record)
        ids.drop_before(now - self._keep_seconds * (1 + 1 / PERIODS))
        ended = TaskTable(record).ended_own()
        results = sum(len(fields[RESULT] or "") for fields in ended.values())
        if len(ended) < ROOM_TASKS and results < ROOM_RESULTS:
            return []
        for task_id in ended:
            del record[task_id]
        ids.add(list(ended), now, self._keep_seconds / PERIODS)
        return [(self._names.ended(shard), _dumps(ended), {"expiration": self._expiration})]

    def found_before(self, task_ids: Sequence[str]) -> dict[str, Fields | None]:
        """Return those of these tasks that this process has found a moment ago."""
        now = time.monotonic()
        while self._found and next(iter(self._found.values()))[1] < now:
            self._found.popitem(last=False)
        return {each: self._found[each][0] for each in task_ids if each in self._found}

    async def find(
        self, shard: str, record: Record, task_ids: Sequence[str]
    ) -> dict[str, Fields | None]:
        """Return ended tasks; the caller has taken their record.

        Args:
            shard: the name of the record.
            record: its content.
            task_ids: of tasks that may have been moved out of it.

        Returns:
            All of them; ``None`` for one that is not remembered. One that should be there, and is
            not, has been lost with data of the server's: it is LOST, since it must not start again.
        """
        everything: dict[str, Fields] = {}
        async with self._connection.channel() as channel:
            for message in await self._take_all(channel, shard):
                everything.update(_loads(message))
            await self._requeue_all(channel, shard)
        until = time.monotonic() + KEPT_SECONDS
        for task_id, fields in everything.items():
            if len(fields[RESULT] or "") < ROOM_RESULTS:
                self._found[task_id] = (fields, until)
                self._found.move_to_end(task_id)
        while len(self._found) > KEPT_FOUND:
            self._found.popitem(last=False)
        return {each: everything.get(each) or self._if_lost(record, each) for each in task_ids}

    async def forget(self, shard: str, record: Record, task_ids: Sequence[str]) -> None:
        """Delete ended tasks; the caller has taken their record."""
        queue = self._names.ended(shard)
        async with self._connection.channel() as channel:
            for message in await self._take_all(channel, shard):
                tasks = _loads(message)
                left = {each: fields for each, fields in tasks.items() if each not in task_ids}
                if len(left) < len(tasks):
                    if left:
                        await channel.publish(queue, _dumps(left), expiration=self._expiration)
                    await channel.ack(message)
            await self._requeue_all(channel, shard)
        ids = EndedIds(record)
        for task_id in task_ids:
            self._found.pop(task_id, None)
            ids.discard(task_id)

    async def _take_all(self, channel: Channel, shard: str) -> list[DeliveredMessage]:
        taken = []
        while (message := await channel.get(self._names.ended(shard))) is not None:
            taken.append(message)
        return taken

    async def _requeue_all(self, channel: Channel, shard: str) -> None:
        """Put all that was taken back, and return when it is there."""
        await channel.requeue_all()
        await channel.declare_queue(self._names.ended(shard), passive=True)

    def _if_lost(self, record: Record, task_id: str) -> Fields | None:
        moved_after = EndedIds(record).moved_after(task_id)
        if moved_after is None or moved_after < time.time() - self._keep_seconds:
            return None
        task = Task(
            task_id,
            state=TaskState.LOST,
            finished_at=moved_after,
            error="It has ended, and how is not known any more: the server has lost that.",
        )
        lost = Record()
        TaskTable(lost)[task_id] = task
        fields: Fields = lost[task_id]
        return fields


def _dumps(tasks: dict[str, Fields]) -> bytes:
    return zlib.compress(json.dumps(tasks, separators=(",", ":")).encode(), 1)


def _loads(message: DeliveredMessage) -> dict[str, Fields]:
    tasks: dict[str, Any] = json.loads(zlib.decompress(message.body))
    return tasks
