"""The metrics of celery-exporter and Flower, by their names, for boards and alerts that exist.

Names, types and labels are those that ``danihodovic/celery-exporter`` and Flower publish; what they
mean where dagster-taskiq has no such thing is in the help of each. The label ``hostname`` is the
host of a worker, as celery-exporter has it, and Flower's ``worker`` the name of one.

A large fleet has many pairs of a worker and a task. So there are no series of what never was with
one, but for failures, of which alerts have to see the first. The times of celery-exporter have an
empty ``hostname``, by which no board asks for them, and those of Flower few buckets.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from dagster_taskiq.monitor.metrics import Measured
from dagster_taskiq.monitor.snapshot import QueueView
from dagster_taskiq.monitor.totals import ALL, Group, summed
from dagster_taskiq.wire.records import Worker
from dagster_taskiq.wire.task_counts import Outcome, TaskCounts, Times
from dagster_taskiq.worker.metrics import cumulated

K = TypeVar("K")

#: The labels of what celery-exporter counts.
OF_TASKS = ("name", "hostname", "queue_name")
#: The upper bounds of the buckets of Flower's times, in seconds: some of ``BOUNDS``.
FLOWER_BOUNDS = frozenset((0.1, 1.0, 10.0, 60.0, 1800.0))
#: The label ``exception`` of a failure: heartbeats have no more than how many there were.
UNKNOWN_EXCEPTION = "unknown"
#: The same for a task whose process or worker died: what Celery raises for it.
LOST_EXCEPTION = "WorkerLostError"

_COUNTERS: Sequence[tuple[str, str, Callable[[TaskCounts], int]]] = (
    (
        "sent",
        "Tasks that were sent. Senders do not report, so each counts when its worker starts it.",
        lambda row: row.started,
    ),
    (
        "received",
        "Tasks that a worker has received, which is when it starts them: it takes none in advance.",
        lambda row: row.started,
    ),
    ("started", "Tasks that a worker has started.", lambda row: row.started),
    (
        "rejected",
        "Always 0: messages that are set aside are in dagster_taskiq_rejected_messages.",
        lambda row: 0,
    ),
    ("succeeded", "Tasks that have succeeded.", lambda row: row.ended.get(Outcome.SUCCEEDED, 0)),
    (
        "revoked",
        "Tasks that were cancelled or stopped, or have expired.",
        lambda row: row.ended.get(Outcome.REVOKED, 0),
    ),
    (
        "retried",
        "Tasks that have failed, and are to be tried again.",
        lambda row: row.ended.get(Outcome.RETRIED, 0),
    ),
)
_TIMES: Sequence[tuple[str, str, Callable[[TaskCounts], Times]]] = (
    ("runtime", "Seconds from the start of a task to its end.", lambda row: row.run),
    (
        "queue_wait_time",
        "Seconds from when a task was sent, or was due if it was delayed, to its start.",
        lambda row: row.wait,
    ),
)
_QUEUE_GAUGES: Sequence[tuple[str, str, Callable[[QueueView], int]]] = (
    ("queue_length", "Messages that wait in the queue.", lambda each: each.waiting),
    ("active_consumer_count", "Workers that serve the queue.", lambda each: len(each.workers)),
    ("active_worker_count", "Workers that serve the queue.", lambda each: len(each.workers)),
    ("active_process_count", "The slots of these workers.", lambda each: each.slots),
)
#: Flower's types of events, and how many of them there were.
_EVENTS: Sequence[tuple[str, Callable[[TaskCounts], int]]] = (
    ("task-received", lambda row: row.started),
    ("task-started", lambda row: row.started),
    ("task-succeeded", lambda row: row.ended.get(Outcome.SUCCEEDED, 0)),
    (
        "task-failed",
        lambda row: row.ended.get(Outcome.FAILED, 0) + row.ended.get(Outcome.LOST, 0),
    ),
    ("task-revoked", lambda row: row.ended.get(Outcome.REVOKED, 0)),
    ("task-retried", lambda row: row.ended.get(Outcome.RETRIED, 0)),
)


def celery_metrics(measured: Measured) -> Iterator[Metric]:
    """Yield the metrics of a fleet by the names of celery-exporter, then by those of Flower."""
    yield from _tasks(measured)
    yield from _workers(measured)
    yield from _queues(measured)
    yield from _flower(measured)


def _tasks(measured: Measured) -> Iterator[Metric]:
    # Celery's tasks belong to no job.
    rows = [
        ((row.name, host, row.queue), row)
        for host in sorted({worker.host for worker in measured.workers})
        for row in _merged(measured.counts.get(Group(host=host), ()), _name_and_queue).values()
        if row.started or any(row.ended.values())
    ]
    of_all = [
        ((row.name, "", row.queue), row)
        for row in _merged(measured.counts[ALL], _name_and_queue).values()
    ]
    for each, text, number_of in _COUNTERS:
        counter = CounterMetricFamily(f"celery_task_{each}", text, labels=OF_TASKS)
        # A panel that adds what never was to something else would be empty without these.
        for labels, _ in of_all:
            counter.add_metric(labels, 0)
        for labels, row in rows:
            if number_of(row):
                counter.add_metric(labels, number_of(row))
        yield counter
    failed = CounterMetricFamily(
        "celery_task_failed",
        f"Tasks that have failed. The class of an exception is not known here: {LOST_EXCEPTION} if "
        f"the process or worker died, else {UNKNOWN_EXCEPTION}.",
        labels=(*OF_TASKS, "exception"),
    )
    for labels, row in rows:
        failed.add_metric((*labels, UNKNOWN_EXCEPTION), row.ended.get(Outcome.FAILED, 0))
        failed.add_metric((*labels, LOST_EXCEPTION), row.ended.get(Outcome.LOST, 0))
    yield failed
    for each, text, times_of in _TIMES:
        histogram = HistogramMetricFamily(f"celery_task_{each}", text, labels=OF_TASKS)
        for labels, row in of_all:
            times = times_of(row)
            if times.count:
                histogram.add_metric(labels, cumulated(times), times.seconds)
        yield histogram


def _workers(measured: Measured) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "celery_worker_up", "1 if a worker on this host sends heartbeats.", labels=("hostname",)
    )
    active = GaugeMetricFamily(
        "celery_worker_tasks_active", "Tasks that run there now.", labels=("hostname",)
    )
    for host, alive in _alive_by(measured, _host).items():
        up.add_metric((host,), bool(alive))
        active.add_metric((host,), sum(len(each.running) for each in alive))
    yield up
    yield active


def _queues(measured: Measured) -> Iterator[Metric]:
    queues = measured.queues
    for name, text, value_of in _QUEUE_GAUGES:
        gauge = GaugeMetricFamily(f"celery_{name}", text, labels=("queue_name",))
        for each in queues:
            gauge.add_metric((each.name,), value_of(each))
        yield gauge


def _flower(measured: Measured) -> Iterator[Metric]:
    of_tasks = ("worker", "task")
    events = CounterMetricFamily(
        "flower_events",
        "Tasks that a worker has received, started and ended, as Celery's events tell it.",
        labels=("worker", "type", "task"),
    )
    runtime = HistogramMetricFamily(
        "flower_task_runtime_seconds", "From the start of a task to its end.", labels=of_tasks
    )
    prefetch_time = GaugeMetricFamily(
        "flower_task_prefetch_time_seconds",
        "Always 0: a worker takes no task before it can start it.",
        labels=of_tasks,
    )
    prefetched = GaugeMetricFamily(
        "flower_worker_prefetched_tasks",
        "Always 0: a worker takes no task before it can start it.",
        labels=of_tasks,
    )
    for worker in sorted({each.name for each in measured.workers}):
        prefetch_time.add_metric((worker, ""), 0)
        prefetched.add_metric((worker, ""), 0)
        rows = _merged(measured.counts.get(Group(name=worker), ()), _name)
        for task, row in rows.items():
            for event, number_of in _EVENTS:
                if number_of(row):
                    events.add_metric((worker, event, task), number_of(row))
            if row.run.count:
                runtime.add_metric((worker, task), _few(cumulated(row.run)), row.run.seconds)
    yield from (events, runtime, prefetch_time, prefetched)
    online = GaugeMetricFamily(
        "flower_worker_online", "1 if the worker sends heartbeats.", labels=("worker",)
    )
    executing = GaugeMetricFamily(
        "flower_worker_number_of_currently_executing_tasks",
        "Tasks that the worker runs now.",
        labels=("worker",),
    )
    for worker, alive in _alive_by(measured, _name).items():
        online.add_metric((worker,), bool(alive))
        executing.add_metric((worker,), sum(len(each.running) for each in alive))
    yield from (online, executing)


def _name(each: TaskCounts | Worker) -> str:
    return each.name


def _name_and_queue(row: TaskCounts) -> tuple[str, str]:
    return row.name, row.queue


def _host(worker: Worker) -> str:
    return worker.host


def _alive_by(measured: Measured, key: Callable[[Worker], str]) -> dict[str, list[Worker]]:
    """Return the workers that are not lost by a key of each; nothing for one of lost ones alone."""
    found: dict[str, list[Worker]] = {each: [] for each in sorted(map(key, measured.workers))}
    for worker in measured.alive:
        found[key(worker)].append(worker)
    return found


def _merged(rows: Iterable[TaskCounts], key: Callable[[TaskCounts], K]) -> dict[K, TaskCounts]:
    """Return the sums of the rows that have the same key."""
    sums: dict[K, TaskCounts] = {}
    for row in rows:
        name = key(row)
        sums[name] = summed(sums[name], row) if name in sums else row
    return sums


def _few(buckets: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return the buckets of ``FLOWER_BOUNDS`` alone, and the last one, which has all."""
    return [each for each in buckets[:-1] if float(each[0]) in FLOWER_BOUNDS] + buckets[-1:]
