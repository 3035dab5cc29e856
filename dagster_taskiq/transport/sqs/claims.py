"""Claiming: the first message of several levels, and what becomes of it.

A message that was received is hidden from others for the time of a lease. While this process holds
it, the lease is renewed; when the start of its task is on record, it is deleted.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass

from dagster_taskiq.errors import DagsterTaskiqError
from dagster_taskiq.transport.messages import Delivery
from dagster_taskiq.transport.sqs import receipts
from dagster_taskiq.transport.sqs.attempts import Attempts
from dagster_taskiq.transport.sqs.messages import Received
from dagster_taskiq.transport.sqs.names import Level
from dagster_taskiq.transport.sqs.polls import Polls
from dagster_taskiq.transport.sqs.queues import Queues
from dagster_taskiq.transport.sqs.sending import Sender

logger = logging.getLogger("dagster_taskiq.broker")

#: A lease is renewed when this part of it has passed.
RENEWED_AFTER = 1 / 3


@dataclass
class Claim:
    """A message that was claimed."""

    message: Received
    #: When its lease began, by the monotonic clock.
    begun_at: float


class Claims:
    """The messages that this process has claimed, until they are acknowledged or released."""

    def __init__(self, queues: Queues, polls: Polls, sender: Sender, attempts: Attempts) -> None:
        self._queues = queues
        self._polls = polls
        self._sender = sender
        self._attempts = attempts
        #: By the handles of their deliveries.
        self.held: dict[str, Claim] = {}
        #: When a message of each queue was claimed last, by the monotonic clock.
        self._served_at: dict[str, float] = {}

    async def claim(self, levels: Iterable[Level]) -> Delivery | None:
        """Claim the first message of several levels; ask each that comes before it."""
        return await self._first(levels, self._polls.ask)

    async def take(self, levels: Iterable[Level]) -> Delivery | None:
        """Claim the first message of several levels that polls have, or receive at once."""
        ordered = list(levels)
        lowest = min((level.priority for level in ordered), default=0)

        async def take(level: Level) -> Received | None:
            return await self._polls.take(level, comes_before=level.priority > lowest)

        return await self._first(ordered, take)

    async def acknowledge(self, delivery: Delivery) -> None:
        """Delete a claimed message."""
        claim = self.held.pop(delivery.handle, None)
        if claim is not None:
            await self._delete(claim.message)
            await self._attempts.forget(claim.message)

    async def release(self, delivery: Delivery) -> None:
        """Make a claimed message visible at once; nothing is left to do if its lease has passed."""
        claim = self.held.pop(delivery.handle, None)
        if claim is not None and time.monotonic() < claim.begun_at + self._queues.visibility:
            await self._attempts.uncount(claim.message)
            await self._polls.release(claim.message)

    async def renew(self, deliveries: Collection[Delivery]) -> None:
        """Renew the leases of claimed messages for which it is time.

        One that is not ours any more is delivered to others; the record of its start decides who
        executes it.
        """
        due = time.monotonic() - self._queues.visibility * RENEWED_AFTER
        claims = [self.held.get(each.handle) for each in deliveries]
        for claim in claims:
            if claim is not None and claim.begun_at <= due:
                try:
                    await self._renew(claim)
                except DagsterTaskiqError as error:
                    logger.debug("Cannot renew a lease: %s", error)

    async def _first(
        self, levels: Iterable[Level], ask: Callable[[Level], Awaitable[Received | None]]
    ) -> Delivery | None:
        for level in self._in_turn(levels):
            while (message := await ask(level)) is not None:
                if message.due_in <= 0:
                    return await self._hand_out(message)
                await self._sender.send_on(message)
                await self._delete(message)
        return None

    def _in_turn(self, levels: Iterable[Level]) -> list[Level]:
        """Return levels by priority; those of one priority take turns, so that none is left out."""
        return sorted(
            levels, key=lambda level: (-level.priority, self._served_at.get(level.queue, 0.0))
        )

    async def _hand_out(self, message: Received) -> Delivery:
        now = time.monotonic()
        self._served_at[message.level.queue] = now
        self.held[message.receipt] = Claim(message, now)
        attempt = await self._attempts.count(message)
        return Delivery(
            message.receipt, message.task_id, message.level.queue, message.body, attempt
        )

    async def _delete(self, message: Received) -> None:
        await self._queues.call(
            self._queues.names.of(message.level),
            lambda client, url: receipts.delete(client, url, message.receipt),
        )

    async def _renew(self, claim: Claim) -> None:
        message, seconds = claim.message, self._queues.visibility
        now = time.monotonic()
        is_ours = await self._queues.call(
            self._queues.names.of(message.level),
            lambda client, url: receipts.hide(client, url, message.receipt, seconds),
        )
        if is_ours:
            claim.begun_at = now
        else:
            self.held.pop(message.receipt, None)
