"""Reporting that steps wait in a queue that no worker serves: soon, then less and less often."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dagster_taskiq.wire.records import Worker

#: How long a step waits in a queue that no worker serves before that is reported, in seconds.
UNSERVED_SECONDS = 10.0
#: How long until it is reported again, in seconds: the first time, and the longest. It doubles with
#: each report.
UNSERVED_AGAIN_SECONDS = (30.0, 600.0)


@dataclass
class _NextReport:
    """When a queue is reported next, and how long after that once more, in seconds."""

    at: float
    again_after: float = field(default_factory=lambda: UNSERVED_AGAIN_SECONDS[0])


class UnservedQueues:
    """Reports queues of one run that no worker serves."""

    def __init__(
        self,
        broker: str,
        report: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Report nothing yet.

        Args:
            broker: URL of the broker whose workers are looked at, without its password.
            report: writes sentences into the event log of the run.
            clock: the time, in seconds from any start.
        """
        self._broker = broker
        self._report = report
        self._clock = clock
        #: By the name of the queue; of those alone that no worker serves now.
        self._next_reports: dict[str, _NextReport] = {}

    def report(self, waiting: Mapping[str, Sequence[float]], workers: Sequence[Worker]) -> None:
        """Report each queue whose turn it is.

        Args:
            waiting: the queues with waiting steps; for each step, since when it waits, by the
                clock.
            workers: all that are known.
        """
        alive = [worker for worker in workers if not worker.is_lost]
        served = {queue for worker in alive for queue in worker.queues}
        unserved = {queue: since for queue, since in waiting.items() if queue not in served}
        for queue in self._next_reports.keys() - unserved.keys():
            del self._next_reports[queue]
        now = self._clock()
        for queue, since in unserved.items():
            first = _NextReport(at=min(since) + UNSERVED_SECONDS)
            planned = self._next_reports.setdefault(queue, first)
            if now < planned.at:
                continue
            planned.at = now + planned.again_after
            planned.again_after = min(planned.again_after * 2, UNSERVED_AGAIN_SECONDS[1])
            self._report(
                f"{len(since)} step(s) have waited up to {now - min(since):.0f} s in queue "
                f'"{queue}", which no worker serves. '
                f"{describe_workers(queue, alive, self._broker)}"
            )


def describe_workers(queue: str, alive: Sequence[Worker], broker: str) -> str:
    """Return sentences for a queue that no worker serves: which workers there are, and what to do.

    Args:
        queue: the name of the queue.
        alive: the workers that are not lost.
        broker: URL of the broker whose workers these are, without its password.
    """
    workers = "; ".join(f"{each.name} (queues {', '.join(each.queues)})" for each in alive)
    return (
        f"Workers that are there, at {broker}: {workers or 'none'}. "
        f"Start one with: dagster-taskiq worker start -q {queue}"
    )
