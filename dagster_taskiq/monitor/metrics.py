"""``/metrics`` of the monitor: queues, workers and tasks of the whole fleet.

What is counted is counted from when the monitor started. Rates and increases, as Prometheus
computes them, are right across restarts of monitors and workers.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from dagster_taskiq.monitor.fleet import Fleet
from dagster_taskiq.monitor.snapshot import QueueView
from dagster_taskiq.monitor.totals import ALL, Group
from dagster_taskiq.wire.records import Worker
from dagster_taskiq.wire.task_counts import TaskCounts
from dagster_taskiq.worker.metrics import render, task_metrics, worker_metrics

_QUEUE_GAUGES: Sequence[tuple[str, str, Callable[[QueueView], float | None]]] = (
    ("waiting", "Messages that wait, those of launched runs included.", lambda each: each.waiting),
    ("starting", "Messages that were claimed, and whose tasks start.", lambda each: each.starting),
    ("running", "Tasks that run in a slot.", lambda each: each.running),
    (
        "orchestrating",
        "Launched runs that wait for their own steps, and hold no slot.",
        lambda each: each.orchestrating,
    ),
    (
        "demand",
        "The slots that it needs: waiting + starting + running, and at least 1 while a run waits "
        "for its steps. To scale workers by.",
        lambda each: each.demand,
    ),
    (
        "oldest_age_seconds",
        "How long the oldest message has waited; 0 if none waits.",
        lambda each: each.oldest_age if each.waiting else 0.0,
    ),
    (
        "workers",
        "Live workers that serve it and do not drain.",
        lambda each: len(each.workers),
    ),
    (
        "slots",
        "The slots of these workers, which may serve other queues too.",
        lambda each: each.slots,
    ),
)


@dataclass(frozen=True)
class Measured:
    """What metrics are made of: the state of a fleet at one time, which stays as it is."""

    queues: Sequence[QueueView]
    #: How many messages were set aside.
    rejected: int
    #: The last records of the workers that are shown, and of those of them that are not lost.
    workers: Sequence[Worker]
    alive: Sequence[Worker]
    #: What all workers have run, those of each host, and those of each name.
    counts: Mapping[Group, Sequence[TaskCounts]]
    #: Why each server has not answered at the last look; empty if it has.
    troubles: Mapping[str, str]
    #: How long ago both have answered, in seconds; ``None`` if they never have.
    look_age: float | None


def measure(fleet: Fleet) -> Measured:
    """Return the state of a fleet now."""
    view = fleet.view(fleet.ended.last)
    return Measured(
        queues=view.queues,
        rejected=view.rejected,
        workers=tuple(fleet.workers),
        alive=tuple(fleet.alive),
        counts=fleet.totals.by_group(),
        troubles=dict(fleet.troubles),
        look_age=max(0.0, time.time() - fleet.looked_at) if fleet.looked_at else None,
    )


#: Makes metrics of the state of a fleet.
Family = Callable[[Measured], Iterator[Metric]]


class MetricsText:
    """The text of ``/metrics``.

    It is written in a thread, since a large fleet has much of it: other requests are answered
    meanwhile. Who asks while one is written gets the same.
    """

    def __init__(self, fleet: Fleet, families: Sequence[Family]) -> None:
        """Write nothing yet.

        Args:
            fleet: of which.
            families: what to write of it.
        """
        self._fleet = fleet
        self._families = families
        self._writing: asyncio.Future[bytes] | None = None

    async def get(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        if self._writing is None or self._writing.done():
            measured = measure(self._fleet)
            self._writing = asyncio.ensure_future(asyncio.to_thread(self._write, measured))
        return await asyncio.shield(self._writing)

    def _write(self, measured: Measured) -> bytes:
        return render(each for family in self._families for each in family(measured))


def fleet_metrics(measured: Measured) -> Iterator[Metric]:
    """Yield the metrics of a fleet, and of the looks at it."""
    yield from _queue_metrics(measured.queues)
    rejected = GaugeMetricFamily(
        "dagster_taskiq_rejected_messages", "Messages that were set aside as unreadable."
    )
    rejected.add_metric((), measured.rejected)
    yield rejected
    yield from worker_metrics(measured.workers)
    yield from task_metrics(measured.counts[ALL])
    yield from _own_metrics(measured)


def _queue_metrics(queues: Sequence[QueueView]) -> Iterator[Metric]:
    for name, text, value_of in _QUEUE_GAUGES:
        gauge = GaugeMetricFamily(f"dagster_taskiq_queue_{name}", text, labels=("queue",))
        for each in queues:
            value = value_of(each)
            if value is not None:
                gauge.add_metric((each.name,), value)
        yield gauge
    priorities = GaugeMetricFamily(
        "dagster_taskiq_queue_priority_waiting",
        "Messages that wait, by priority; not on every broker.",
        labels=("queue", "priority"),
    )
    for each in queues:
        for priority, count in sorted((each.priorities or {}).items()):
            priorities.add_metric((each.name, str(priority)), count)
    yield priorities


def _own_metrics(measured: Measured) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "dagster_taskiq_monitor_server_up",
        "1 if the server has answered at the last look.",
        labels=("server",),
    )
    for server, trouble in measured.troubles.items():
        up.add_metric((server,), not trouble)
    yield up
    age = GaugeMetricFamily(
        "dagster_taskiq_monitor_look_age_seconds",
        "How long ago broker and backend have both answered; absent if they never have.",
    )
    if measured.look_age is not None:
        age.add_metric((), measured.look_age)
    yield age
