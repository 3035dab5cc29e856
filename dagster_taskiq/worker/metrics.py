"""What workers have run and hold, as metrics in the text format of Prometheus.

Here is each family of metrics that is made of workers' records: its name, its labels and its
help. A worker serves them of itself alone, and a monitor of all workers together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from dagster_taskiq.wire.records import Worker
from dagster_taskiq.wire.task_counts import BOUNDS, Outcome, TaskCounts, Times

#: The header of what :func:`render` returns.
CONTENT_TYPE = CONTENT_TYPE_LATEST

#: The labels of what is counted by kind of task. The name of the Dagster job, which is empty for a
#: user's own task, is not in a label ``job``: Prometheus has one of that name, and renames others.
OF_TASKS = ("queue", "task", "dagster_job")
#: The labels of what a worker has.
OF_WORKERS = ("worker", "host")

#: What is counted, with how many of it there are.
_COUNTERS: Sequence[tuple[str, str, Callable[[TaskCounts], int]]] = (
    ("started", "Executions of tasks that have started.", lambda row: row.started),
    *(
        (outcome.value, text, lambda row, outcome=outcome: row.ended.get(outcome, 0))
        for outcome, text in (
            (Outcome.SUCCEEDED, "Executions that have succeeded; of steps, also those skipped."),
            (Outcome.FAILED, "Executions that have failed, and are not to be tried again."),
            (Outcome.LOST, "Executions whose process died."),
            (Outcome.REVOKED, "Executions that were cancelled or stopped, or have expired."),
            (Outcome.RETRIED, "Executions that have failed, and are to be tried again."),
            (Outcome.HANDED_OVER, "Executions that go on in another worker, as theirs ends."),
        )
    ),
)
_TIMES: Sequence[tuple[str, str, Callable[[TaskCounts], Times]]] = (
    (
        "wait",
        "From when a task was sent, or was due if it was delayed, to its start.",
        lambda row: row.wait,
    ),
    ("run", "From the start of an execution to its end.", lambda row: row.run),
)
_GAUGES: Sequence[tuple[str, str, Callable[[Worker], float]]] = (
    ("up", "1 while the worker sends heartbeats.", lambda worker: not worker.is_lost),
    ("slots", "How many tasks run at once in the worker.", lambda worker: worker.concurrency),
    ("busy", "How many of its slots are in use.", lambda worker: worker.busy_slots),
    (
        "memory_bytes",
        "The memory that its processes hold; what they share is counted for each. 0: not known.",
        lambda worker: worker.memory,
    ),
)


def task_metrics(rows: Iterable[TaskCounts]) -> Iterator[Metric]:
    """Yield the metrics of tasks.

    Args:
        rows: the counts by kind of task, each kind once.
    """
    kinds = [((row.queue, row.name, row.job), row) for row in rows]
    for name, text, number_of in _COUNTERS:
        counter = CounterMetricFamily(f"dagster_taskiq_tasks_{name}", text, labels=OF_TASKS)
        for labels, row in kinds:
            counter.add_metric(labels, number_of(row))
        yield counter
    for name, text, times_of in _TIMES:
        histogram = HistogramMetricFamily(
            f"dagster_taskiq_task_{name}_seconds", text, labels=OF_TASKS
        )
        for labels, row in kinds:
            times = times_of(row)
            histogram.add_metric(labels, cumulated(times), times.seconds)
        yield histogram


def worker_metrics(workers: Iterable[Worker]) -> Iterator[Metric]:
    """Yield the metrics of workers; of several with one name on one host, that of the latest.

    Args:
        workers: the records of the workers.
    """
    by_labels = {
        (worker.name, worker.host): worker for worker in sorted(workers, key=_age, reverse=True)
    }
    for name, text, number_of in _GAUGES:
        gauge = GaugeMetricFamily(f"dagster_taskiq_worker_{name}", text, labels=OF_WORKERS)
        for labels, worker in by_labels.items():
            gauge.add_metric(labels, float(number_of(worker)))
        yield gauge


def _age(worker: Worker) -> float:
    return worker.age


def cumulated(times: Times) -> list[tuple[str, float]]:
    """Return the buckets of a histogram as Prometheus has them: each with all before it."""
    bounds = [*map(floatToGoString, BOUNDS), "+Inf"]
    return list(zip(bounds, map(float, accumulate(times.buckets)), strict=True))


class _Collected:
    """What ``generate_latest`` takes: a registry that has been collected."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def render(metrics: Iterable[Metric]) -> bytes:
    """Return metrics in Prometheus' text format."""
    return generate_latest(_Collected(metrics))


def render_worker(worker: Worker) -> bytes:
    """Return the metrics of one worker in Prometheus' text format."""
    return render([*worker_metrics([worker]), *task_metrics(worker.counts or ())])
