"""How much waits in the queues, as SQS tells it: about, and up to a minute late."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from dagster_taskiq.transport.sqs.names import Lane
from dagster_taskiq.transport.sqs.queues import Queues
from dagster_taskiq.transport.sqs.sending import Sender
from dagster_taskiq.wire.queues import QueueDepth

#: How late counts may be, in seconds. AWS promises no more than that they are right by then.
LATE_SECONDS = 60.0

#: The attributes with the counts of what waits, what is delayed, and what is claimed.
WAITING: Final = "ApproximateNumberOfMessages"
_DELAYED: Final = "ApproximateNumberOfMessagesDelayed"
_CLAIMED: Final = "ApproximateNumberOfMessagesNotVisible"


class Depths:
    """Counts the messages of queues."""

    def __init__(self, queues: Queues, sender: Sender, has_priorities: bool) -> None:
        """Count nothing yet.

        Args:
            queues: those on the server.
            sender: knows where this process has just sent something.
            has_priorities: whether messages of another priority are in a queue of their own.
        """
        self._queues = queues
        self._sender = sender
        self._has_priorities = has_priorities

    async def all(self) -> list[QueueDepth]:
        """Return the queues that hold messages, by name."""
        lanes = await self._queues.all()
        counts = await asyncio.gather(*map(self._count, lanes))
        by_queue: dict[str, dict[int, _Counts]] = {}
        for lane, found in zip(lanes, counts, strict=True):
            if found.any:
                by_queue.setdefault(lane.queue, {})[lane.level] = found
        return [self._depth(queue, levels) for queue, levels in sorted(by_queue.items())]

    async def is_empty(self, lanes: Iterable[Lane]) -> bool:
        """Return whether lanes hold no message, as far as SQS can tell by now."""
        asked = list(lanes)
        if any(self._sender.seconds_since(lane) < LATE_SECONDS for lane in asked):
            return False  # whatever the counts are by now
        return not any(each.any for each in await asyncio.gather(*map(self._count, asked)))

    def _depth(self, queue: str, levels: "Mapping[int, _Counts]") -> QueueDepth:
        """Return how much waits in a queue, by what its lanes hold, by level."""
        due = {level: each.due for level, each in levels.items() if each.due}
        return QueueDepth(
            queue,
            waiting=sum(each.due + each.delayed for each in levels.values()),
            claimed=sum(each.claimed for each in levels.values()),
            oldest_age=None,
            priorities=due if self._has_priorities else None,
        )

    async def _count(self, lane: Lane) -> "_Counts":
        found = await self._queues.attributes(
            self._queues.names.of(lane), [WAITING, _DELAYED, _CLAIMED]
        )
        if found is None:
            return _Counts(0, 0, 0)
        return _Counts(int(found[WAITING]), int(found[_DELAYED]), int(found[_CLAIMED]))


class _Counts(NamedTuple):
    """How many messages of a lane can be claimed now, are delayed, and are claimed."""

    due: int
    delayed: int
    claimed: int

    @property
    def any(self) -> bool:
        """Whether there is a message."""
        return bool(self.due or self.delayed or self.claimed)
