"""Saying that steps wait in a queue which no worker serves: at first soon, then now and again."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dagster_taskiq.wire.records import Worker

#: How long a step waits in a queue that no worker serves before that is said, in seconds.
UNSERVED_SECONDS = 10.0
#: How long until it is said again, in seconds: at first, and at most; twice as long each time.
UNSERVED_AGAIN_SECONDS = (30.0, 600.0)


@dataclass
class _Complaint:
    """When a queue is named next, in ``time.monotonic()``."""

    at: float
    again_after: float = field(default_factory=lambda: UNSERVED_AGAIN_SECONDS[0])


class UnservedQueues:
    """What one run has said of its queues so far."""

    def __init__(self) -> None:
        self._complaints: dict[str, _Complaint] = {}

    def complaints(
        self, waiting: Mapping[str, Sequence[float]], workers: Sequence[Worker], broker: str
    ) -> Iterator[str]:
        """Yield a sentence for each queue that is to be named now.

        Args:
            waiting: for each queue, since when each of its steps waits, in ``time.monotonic()``.
            workers: all that are known.
            broker: URL of the broker that they are looked for at, without its password.
        """
        alive = [worker for worker in workers if not worker.is_lost]
        served = {queue for worker in alive for queue in worker.queues}
        unserved = {queue: since for queue, since in waiting.items() if queue not in served}
        for queue in [queue for queue in self._complaints if queue not in unserved]:
            del self._complaints[queue]
        now = time.monotonic()
        for queue, since in unserved.items():
            due = _Complaint(at=min(since) + UNSERVED_SECONDS)
            complaint = self._complaints.setdefault(queue, due)
            if now < complaint.at:
                continue
            complaint.at = now + complaint.again_after
            complaint.again_after = min(complaint.again_after * 2, UNSERVED_AGAIN_SECONDS[1])
            yield (
                f"{len(since)} step(s) have waited up to {now - min(since):.0f} s in queue "
                f'"{queue}", which no worker serves. {who_is_there(queue, alive, broker)}'
            )


def who_is_there(queue: str, alive: Sequence[Worker], broker: str) -> str:
    """Return sentences for one whose queue no worker serves: who is there, and what to do.

    Args:
        queue: the queue.
        alive: the workers that are there.
        broker: URL of the broker that they are looked for at, without its password.
    """
    there = "; ".join(f"{each.name} (queues {', '.join(each.queues)})" for each in alive)
    return (
        f"Workers that are there, at {broker}: {there or 'none'}. "
        f"Start one with: dagster-taskiq worker start -q {queue}"
    )
