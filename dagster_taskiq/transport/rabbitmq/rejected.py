"""The messages that were set aside: nobody claims them, and they can be put back."""

import hashlib
import time
import uuid
from collections.abc import Sequence

from aiormq.abc import DeliveredMessage

from dagster_taskiq.transport.message_queues import Prepare
from dagster_taskiq.transport.messages import Delivery, Outgoing
from dagster_taskiq.transport.rabbitmq.channel import Channel
from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.messages import (
    LOWEST_PRIORITY,
    TASK_ID_HEADER,
    headers_of,
    task_id_of,
)
from dagster_taskiq.transport.rabbitmq.names import Names
from dagster_taskiq.transport.rabbitmq.sending import Sender
from dagster_taskiq.wire.rejected_messages import LISTED_BYTES, RejectedMessage, preview_of

#: How many are kept: the last ones.
REJECTED_LIMIT = 1000
#: The headers with the queue, the reason, and when that was, in nanoseconds since the epoch by the
#: clock of the worker.
_QUEUE, _REASON, _REJECTED_AT = "queue", "reason", "rejected_at"


class Rejected:
    """The queue of the messages that were set aside.

    To look at them is to take them and to give them back: who looks at the same time finds none, or
    some.
    """

    def __init__(self, connection: RabbitConnection, names: Names, sender: Sender) -> None:
        self._connection = connection
        self._queue = names.rejected
        self._sender = sender

    async def add(self, delivery: Delivery, reason: str, level: int | None) -> None:
        """Store a copy of a message, with its queue and the reason in its headers.

        Args:
            delivery: the message.
            reason: why it is set aside.
            level: the level of its queue that it was published with.
        """
        headers = {
            TASK_ID_HEADER: delivery.task_id,
            _QUEUE: delivery.queue,
            _REASON: reason,
            _REJECTED_AT: time.time_ns(),
        }
        async with self._connection.channel() as channel:
            await self._declare(channel)
            await channel.publish(
                self._queue,
                delivery.body,
                message_id=uuid.uuid4().hex,
                priority=level,
                headers=headers,
            )

    async def count(self) -> int:
        """Return how many there are."""
        async with self._connection.channel() as channel:
            return await self._declare(channel)

    async def first(self, limit: int) -> list[RejectedMessage]:
        """Take the first of them, and give them back."""
        found: list[RejectedMessage] = []
        size = 0
        async with self._connection.channel() as channel:
            count = await self._declare(channel)
            while len(found) < min(count, limit) and size < LISTED_BYTES:
                message = await channel.get(self._queue)
                if message is None:
                    break
                found.append(_listed(message))
                size += found[-1].size
            if found:
                await self._give_back(channel)
        return found

    async def requeue(self, ids: Sequence[str], prepare: Prepare) -> list[str]:
        """Publish copies to their queues, and delete the messages here then."""
        async with self._connection.channel() as channel:
            found = [each for each in await self._take(channel, ids) if _is_whole(each)]
            if found:
                await prepare([task_id_of(each) for each in found])
                await self._sender.send([_outgoing(each) for each in found])
            return await self._delete(channel, found)

    async def delete(self, ids: Sequence[str]) -> list[str]:
        """Take them, and acknowledge them."""
        async with self._connection.channel() as channel:
            return await self._delete(channel, await self._take(channel, ids))

    async def _take(self, channel: Channel, ids: Sequence[str]) -> list[DeliveredMessage]:
        """Take messages until those of these ids are found; return them."""
        found = []
        missing = set(ids)
        for _ in range(await self._declare(channel)):
            message = await channel.get(self._queue) if missing else None
            if message is None:
                break
            if _id_of(message) in missing:
                missing.discard(_id_of(message))
                found.append(message)
        return found

    async def _delete(self, channel: Channel, messages: Sequence[DeliveredMessage]) -> list[str]:
        """Delete some of what was taken, and give the rest back; return the ids of the former."""
        for each in messages:
            await channel.ack(each)
        await self._give_back(channel)
        return [_id_of(each) for each in messages]

    async def _give_back(self, channel: Channel) -> None:
        """Put all that was taken, and not deleted, back to its places; return when it is there."""
        await channel.requeue_all()
        # The server does not confirm that. What is asked of the queue after it has an answer.
        await self._declare(channel)

    async def _declare(self, channel: Channel) -> int:
        return await channel.declare_queue(self._queue, arguments={"x-max-length": REJECTED_LIMIT})


def _listed(message: DeliveredMessage) -> RejectedMessage:
    headers, body = headers_of(message), message.body
    at = headers.get(_REJECTED_AT)
    return RejectedMessage(
        id=_id_of(message),
        task_id=task_id_of(message),
        queue=str(headers.get(_QUEUE, "")),
        reason=str(headers.get(_REASON, "")),
        rejected_at=at / 1e9 if isinstance(at, int) else None,
        size=len(body),
        preview=preview_of(body),
        is_whole=_is_whole(message),
    )


def _is_whole(message: DeliveredMessage) -> bool:
    """Whether it is known where it came from: somebody else may have put it here."""
    return _QUEUE in headers_of(message)


def _outgoing(message: DeliveredMessage) -> Outgoing:
    """Return a message for its queue. One that an older release has set aside has no level."""
    level = message.header.properties.priority
    priority = 0 if level is None else level + LOWEST_PRIORITY
    return Outgoing(task_id_of(message), str(headers_of(message)[_QUEUE]), priority, message.body)


def _id_of(message: DeliveredMessage) -> str:
    """Return the id of a message; one that an older release has set aside has none of its own."""
    return message.header.properties.message_id or hashlib.sha256(message.body).hexdigest()
