"""``/metrics`` of the monitor: queues, workers and tasks of the whole fleet.

What is counted is counted from when the monitor started. Rates and increases, as Prometheus
computes them, are right across restarts of monitors and workers.
"""

import time
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from dagster_taskiq.monitor.fleet import Fleet
from dagster_taskiq.monitor.snapshot import QueueView
from dagster_taskiq.worker.metrics import task_metrics, worker_metrics

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


def fleet_metrics(fleet: Fleet) -> Iterator[Metric]:
    """Yield the metrics of a fleet, and of the looks at it."""
    view = fleet.view()
    yield from _queue_metrics(view.queues)
    rejected = GaugeMetricFamily(
        "dagster_taskiq_rejected_messages", "Messages that were set aside as unreadable."
    )
    rejected.add_metric((), view.rejected)
    yield rejected
    yield from worker_metrics(fleet.workers)
    yield from task_metrics(fleet.totals.of())
    yield from _own_metrics(fleet)


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


def _own_metrics(fleet: Fleet) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "dagster_taskiq_monitor_server_up",
        "1 if the server has answered at the last look.",
        labels=("server",),
    )
    for server, trouble in fleet.troubles.items():
        up.add_metric((server,), not trouble)
    yield up
    age = GaugeMetricFamily(
        "dagster_taskiq_monitor_look_age_seconds",
        "How long ago broker and backend have both answered; absent if they never have.",
    )
    if fleet.looked_at:
        age.add_metric((), max(0.0, time.time() - fleet.looked_at))
    yield age
