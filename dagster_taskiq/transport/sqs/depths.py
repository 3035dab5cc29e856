"""How much waits in the queues, as SQS tells it: about, and up to a minute late."""

import asyncio
from collections.abc import Iterable
from typing import Final

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

    def __init__(self, queues: Queues, sender: Sender) -> None:
        self._queues = queues
        self._sender = sender

    async def all(self) -> list[QueueDepth]:
        """Return the queues that hold messages, by name."""
        lanes = await self._queues.all()
        counts = await asyncio.gather(*map(self._count, lanes))
        rows: dict[str, tuple[int, int]] = {}
        for lane, (waiting, claimed) in zip(lanes, counts, strict=True):
            before = rows.get(lane.queue, (0, 0))
            rows[lane.queue] = before[0] + waiting, before[1] + claimed
        return [
            QueueDepth(queue, waiting, claimed, None)
            for queue, (waiting, claimed) in sorted(rows.items())
            if waiting or claimed
        ]

    async def is_empty(self, lanes: Iterable[Lane]) -> bool:
        """Return whether lanes hold no message, as far as SQS can tell by now."""
        asked = list(lanes)
        if any(self._sender.seconds_since(lane) < LATE_SECONDS for lane in asked):
            return False  # whatever the counts are by now
        return not any(sum(each) for each in await asyncio.gather(*map(self._count, asked)))

    async def _count(self, lane: Lane) -> tuple[int, int]:
        """Return how many messages of a lane wait, and how many are claimed."""
        found = await self._queues.attributes(
            self._queues.names.of(lane), [WAITING, _DELAYED, _CLAIMED]
        )
        if found is None:
            return 0, 0
        return int(found[WAITING]) + int(found[_DELAYED]), int(found[_CLAIMED])
