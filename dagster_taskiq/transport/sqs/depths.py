"""How much waits in the queues, as SQS tells it: about, and up to a minute late."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from dagster_taskiq.transport.sqs.names import Level
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
        levels = await self._queues.all()
        counts = await asyncio.gather(*map(self._count, levels))
        by_queue: dict[str, dict[int, _Counts]] = {}
        for level, found in zip(levels, counts, strict=True):
            if found.any:
                by_queue.setdefault(level.queue, {})[level.priority] = found
        return [self._depth(queue, found) for queue, found in sorted(by_queue.items())]

    async def is_empty(self, levels: Iterable[Level]) -> bool:
        """Return whether levels hold no message, as far as SQS can tell by now."""
        asked = list(levels)
        if any(self._sender.seconds_since(level) < LATE_SECONDS for level in asked):
            return False  # whatever the counts are by now
        return not any(each.any for each in await asyncio.gather(*map(self._count, asked)))

    def _depth(self, queue: str, counts: "Mapping[int, _Counts]") -> QueueDepth:
        """Return how much waits in a queue, by what its levels hold, by priority."""
        due = {priority: each.due for priority, each in counts.items() if each.due}
        return QueueDepth(
            queue,
            waiting=sum(each.due + each.delayed for each in counts.values()),
            claimed=sum(each.claimed for each in counts.values()),
            oldest_age=None,
            priorities=due if self._has_priorities else None,
        )

    async def _count(self, level: Level) -> "_Counts":
        found = await self._queues.attributes(
            self._queues.names.of(level), [WAITING, _DELAYED, _CLAIMED]
        )
        if found is None:
            return _Counts(0, 0, 0)
        return _Counts(int(found[WAITING]), int(found[_DELAYED]), int(found[_CLAIMED]))


class _Counts(NamedTuple):
    """How many messages of a level can be claimed now, are delayed, and are claimed."""

    due: int
    delayed: int
    claimed: int

    @property
    def any(self) -> bool:
        """Whether there is a message."""
        return bool(self.due or self.delayed or self.claimed)
