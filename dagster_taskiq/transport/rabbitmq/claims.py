"""Claiming: the first message of several queues, and what becomes of it.

A message that was taken belongs to the connection of the process that took it. When that connection
ends, the server requeues the message: at once if the process dies, after two missed heartbeats if
it is frozen.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelNotFoundEntity

from dagster_taskiq.transport.messages import Delivery
from dagster_taskiq.transport.rabbitmq.attempts import Attempts
from dagster_taskiq.transport.rabbitmq.channel import Channel
from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.messages import (
    claim_order,
    task_id_of,
    was_delivered_before,
)
from dagster_taskiq.transport.rabbitmq.names import Names
from dagster_taskiq.transport.rabbitmq.queues import Queues
from dagster_taskiq.transport.rabbitmq.wakeups import WakeUps


@dataclass(frozen=True)
class Claim:
    """A message that was taken, the channel that it belongs to, and the queue it came from."""

    channel: Channel
    message: DeliveredMessage
    queue: str


class Claims:
    """The messages that this process has claimed, until they are acknowledged or released."""

    def __init__(
        self,
        connection: RabbitConnection,
        names: Names,
        queues: Queues,
        wakeups: WakeUps,
        attempts: Attempts,
    ) -> None:
        self._connection = connection
        self._names = names
        self._queues = queues
        self._wakeups = wakeups
        self._attempts = attempts
        self._claims: dict[str, Claim] = {}
        self._handles = itertools.count(1)

    async def take(self, queues: Sequence[str]) -> Delivery | None:
        """Claim the first message of several queues: highest priority, then oldest.

        Takes the first message of each, keeps the first of them and requeues the others. Leaves out
        the queues that are known to be empty.

        Raises:
            ServerUnavailableError: the connection was lost, or a queue has been deleted; all that
                was taken is back in its queue.
        """
        self._wakeups.begin_look(time.monotonic())
        channel = await self._connection.lasting_channel(f"claims of {id(self)}")
        try:
            heads = []
            for queue in queues:
                if not self._wakeups.idle.is_idle(queue):
                    heads += await self._take_head(channel, queue)
            if not heads:
                return None
            first, *others = sorted(heads, key=lambda claim: claim_order(claim.message))
            for each in others:
                await self._requeue(each)
            return await self._hand_out(first)
        except ChannelNotFoundEntity as error:
            await self._queues.forget_declared(queues)
            raise self._connection.boundary.unavailable(
                f"a queue has been deleted, and is declared again: {error}"
            ) from None
        except BaseException:
            self._wakeups.idle.ask_all()
            channel.discard()  # the server requeues what was taken on it
            raise

    async def acknowledge(self, delivery: Delivery) -> None:
        """Delete a claimed message.

        Raises:
            ServerUnavailableError: the connection is lost, and the message is back in its queue.
        """
        claim = self.pop(delivery)
        if claim is None:
            raise self._connection.boundary.unavailable(
                "the connection through which the message came is gone"
            )
        await self.delete(claim, delivery.task_id)

    async def release(self, delivery: Delivery) -> None:
        """Requeue a claimed message; nothing is left to do if the server has requeued it."""
        claim = self.pop(delivery)
        if claim is not None:
            await self._attempts.uncount(delivery.task_id)
            await self._requeue(claim)

    def pop(self, delivery: Delivery) -> Claim | None:
        """Return the claim of a message, which is then the caller's to delete.

        Returns:
            ``None`` if its connection is lost: the server has requeued the message.
        """
        claim = self._claims.pop(delivery.handle, None)
        return claim if claim is not None and claim.channel.is_open else None

    async def delete(self, claim: Claim, task_id: str) -> None:
        """Delete the message of a claim, and the count of its deliveries."""
        await claim.channel.ack(claim.message)
        if was_delivered_before(claim.message):
            await self._attempts.forget(task_id)

    async def _take_head(self, channel: Channel, queue: str) -> list[Claim]:
        """Take the first message of a queue; return an empty list if it has none."""
        await self._queues.declare(channel, queue)
        self._wakeups.idle.before_asking(queue)
        message = await channel.get(self._names.queue(queue))
        if message is None:
            return []
        if getattr(message.delivery, "message_count", 1):  # of those behind it
            self._wakeups.idle.has_messages(queue)
        return [Claim(channel, message, queue)]

    async def _requeue(self, claim: Claim) -> None:
        self._wakeups.idle.has_messages(claim.queue)
        await claim.channel.requeue(claim.message)
        # A listener that has found the queue empty meanwhile has to look again.
        await self._wakeups.send(claim.channel, claim.queue)

    async def _hand_out(self, claim: Claim) -> Delivery:
        task_id = task_id_of(claim.message)
        attempt = 1
        if was_delivered_before(claim.message):
            attempt = await self._attempts.count_again(task_id)
        handle = str(next(self._handles))
        self._claims[handle] = claim
        return Delivery(handle, task_id, claim.queue, claim.message.body, attempt)
