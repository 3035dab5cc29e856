"""The broker on Amazon SQS: a queue for each queue, run queue, and priority that is used.

taskiq-aio-sqs's broker takes many messages at once, and keeps each hidden for as long as its task
runs, up to the twelve hours that SQS allows. Here a worker takes one message when a slot is free,
and deletes it when its task is recorded as started: what SQS hides is only the message of a task
that is being started.

SQS keeps no state of tasks and workers: that is in a backend on another server.
"""

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.background import look_at
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.message_queues import Prepare
from dagster_taskiq.transport.messages import Delivery, Outgoing
from dagster_taskiq.transport.sqs.attempts import Attempts
from dagster_taskiq.transport.sqs.claims import RENEWED_AFTER, Claims
from dagster_taskiq.transport.sqs.connection import SqsConnection
from dagster_taskiq.transport.sqs.depths import Depths
from dagster_taskiq.transport.sqs.levels import Levels
from dagster_taskiq.transport.sqs.names import Level, Names, name_in
from dagster_taskiq.transport.sqs.polls import Polls
from dagster_taskiq.transport.sqs.queues import Queues
from dagster_taskiq.transport.sqs.rejected import Rejected
from dagster_taskiq.transport.sqs.sending import Sender
from dagster_taskiq.transport.sqs.url import Target
from dagster_taskiq.wire.queues import QueueDepth
from dagster_taskiq.wire.rejected_messages import RejectedMessage


class SqsBroker(QueueBroker):
    """Queues of SQS; a listener has a poll on each that it serves."""

    #: The library of AWS takes a second to import, and some memory: a worker's children do without.
    shares_connection: ClassVar[bool] = True

    def __init__(self, settings: Settings, connection: SqsConnection | None = None) -> None:
        """Prepare; nothing is connected yet.

        Args:
            settings: whose ``broker`` names the region.
            connection: one to share; by default one of its own.

        Raises:
            ConfigError: the URL, an option or the prefix cannot be used.
        """
        super().__init__(settings)
        self.connection: SqsConnection = connection or SqsConnection(
            settings.broker, settings.broker_options, settings.connect_timeout
        )
        target = self.connection.target
        names = Names(_prefix_of(target, settings), target.urls(settings.queue))
        queues = Queues(self.connection, names, settings.queue, settings.lease)
        self._queues = queues
        attempts = Attempts(queues.visibility, lambda: self.result_backend)
        are_used = target.has_priorities
        self._levels = Levels(queues, are_used, lambda: self.result_backend)
        self._polls = Polls(self.connection, queues, self._levels.forget)
        self._sender = Sender(self.connection, queues)
        self._claims = Claims(queues, self._polls, self._sender, attempts)
        self._rejected = Rejected(queues, self._sender, self.put_all)
        self._depths = Depths(queues, self._sender, are_used)
        self._renewing: asyncio.Task[None] | None = None

    async def ping(self) -> None:
        """Ask for the default queue, unless a poll has been answered just now: each request costs.

        In a worker, create its queues before, so that a refusal ends its start.
        """
        names = self._queues.names
        if self.is_worker_process:
            for queue in self.all_queues:
                await self._queues.url(names.of(Level(queue)))
            await self._levels.refresh()
        if not self._polls.were_answered():
            await self._queues.check(names.of(Level(self.settings.queue)))

    async def put_all(self, messages: Sequence[Outgoing]) -> None:
        """Send them; on return SQS has them, on several machines."""
        await self._sender.send(messages, self._levels.announce)

    async def claim(self) -> Delivery | None:
        """Ask each level of the open queues for a message, the levels of high priority first."""
        await self._levels.list_all()
        return await self._claims.claim(self._levels.of(self.open_queues))

    async def claim_next(self) -> Delivery | None:
        """Take the first message that polls have received; have a poll on each level."""
        delivery = await self._claims.take(self._levels.of(self.open_queues))
        if delivery is not None and self._renewing is None:
            self._renewing = asyncio.ensure_future(self._renew())
            self._renewing.add_done_callback(look_at)
        return delivery

    async def wait_for_work(self, timeout: float) -> None:
        """Return when a poll has received a message, or another priority is in use."""
        self._levels.watch()
        changed = self._levels.changed()
        await self._polls.wait(self._levels.of(self.open_queues), changed, timeout)

    async def stop_claiming(self) -> None:
        """Release what polls have received for nobody, when SQS has answered all of them."""
        self._levels.end()
        if self._renewing is not None:
            self._renewing.cancel()
            self._renewing = None
        await self._polls.end()

    def hurry(self) -> None:
        """Wait for no polls: what SQS sends to them is hidden until its lease is over."""
        self._polls.hurry()

    async def acknowledge(self, delivery: Delivery) -> None:
        """Have SQS delete the message."""
        await self._claims.acknowledge(delivery)

    async def release(self, delivery: Delivery) -> None:
        """Have SQS show the message to others at once."""
        await self._claims.release(delivery)

    async def reject(self, delivery: Delivery, reason: str) -> None:
        """Send a copy to the queue of rejected messages, and delete the message."""
        claim = self._claims.held.get(delivery.handle)
        await self._rejected.add(delivery, reason, claim.message.level.priority if claim else 0)
        await self._claims.acknowledge(delivery)

    async def discard(self, task_ids: Sequence[str]) -> int:
        """Return 0: SQS deletes nothing by an id. The records of the tasks show that they are
        revoked, and the messages are dropped when they are claimed.
        """
        del task_ids
        return 0

    async def depths(self) -> list[QueueDepth]:
        """Ask for the counts of all queues, which are approximate; SQS does not tell their age."""
        return await self._depths.all()

    async def is_empty(self, queue: str) -> bool:
        """Ask for the counts of this queue alone, with each of its priorities.

        They may come late: nothing is empty to which this process has just sent something.
        """
        await self._levels.refresh()
        return await self._depths.is_empty(self._levels.of([queue]))

    async def rejected(self) -> int:
        """Ask for the count of the queue of rejected messages."""
        return await self._rejected.count()

    async def list_rejected(self, limit: int) -> list[RejectedMessage]:
        """Receive some of them, and show them to others again."""
        return await self._rejected.first(limit)

    async def requeue_rejected(self, ids: Sequence[str], prepare: Prepare) -> list[str]:
        """Send copies to their queues, and delete the messages that were set aside then."""
        return await self._rejected.requeue(ids, prepare)

    async def delete_rejected(self, ids: Sequence[str]) -> list[str]:
        """Receive them, and delete them."""
        return await self._rejected.delete(ids)

    async def _renew(self) -> None:
        """Renew the leases of what was yielded and is not started, for as long as there is any."""
        try:
            await asyncio.sleep(self._queues.visibility * RENEWED_AFTER)
            while self.listener.claimed:
                await self._claims.renew(self.listener.claimed)
                await asyncio.sleep(self._queues.visibility * RENEWED_AFTER)
        finally:
            self._renewing = None


def _prefix_of(target: Target, settings: Settings) -> str:
    """Return what the names of queues begin with.

    Those whose default queue has a URL, and who have set no prefix, would all have the same one,
    and share queues.
    """
    if target.prefix:
        return target.prefix
    if target.queue_url and settings.prefix == Settings().prefix:
        return name_in(target.queue_url)
    return settings.prefix
