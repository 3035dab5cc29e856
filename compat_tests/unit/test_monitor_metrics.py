"""``/metrics`` of the monitor: what is written of a fleet, and how."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from compat_tests.unit.test_fleet import Looks, counts, worker
from dagster_taskiq.monitor.celery_metrics import celery_metrics
from dagster_taskiq.monitor.fleet import Fleet
from dagster_taskiq.monitor.metrics import Measured, MetricsText, fleet_metrics, measure
from dagster_taskiq.wire.task_counts import TaskCounts
from dagster_taskiq.worker.metrics import render


def ran(name: str, job: str = "") -> TaskCounts:
    row = counts(3, job, succeeded=2)
    row.name = name
    for _ in range(2):
        row.run.add(0.3)
    row.wait.add(0.3)
    return row


def lines_by_name(fleet: Fleet) -> Counter[str]:
    text = render(celery_metrics(measure(fleet))).decode()
    lines = [each for each in text.splitlines() if not each.startswith("#")]
    return Counter(each.partition("{")[0] for each in lines)


def fleet_of(workers: int, *rows: TaskCounts) -> Fleet:
    looks = Looks()
    looks.look()
    looks.look(*(worker(f"w{n}", host=f"h{n}", uptime=1.0, counts=rows) for n in range(workers)))
    return looks.fleet


def test_names_of_celery_have_few_lines_for_each_worker_and_task() -> None:
    one, many = (lines_by_name(fleet_of(n, ran("a"), ran("b"))) for n in (1, 11))
    for_each = {name: (many[name] - one[name]) / 20 for name in many if many[name] != one[name]}
    assert {
        name: number for name, number in for_each.items() if name.startswith("celery_task")
    } == {
        **dict.fromkeys(("celery_task_sent_total", "celery_task_received_total"), 1),
        **dict.fromkeys(("celery_task_started_total", "celery_task_succeeded_total"), 1),
        "celery_task_failed_total": 2,
    }
    assert for_each["flower_events_total"] == 3
    assert for_each["flower_task_runtime_seconds_bucket"] == 6


def test_what_never_ran_has_no_line_by_celery_names_with_a_worker() -> None:
    ends = ("_bucket", "_count", "_sum")
    lines = lines_by_name(fleet_of(1, TaskCounts("dagster", "a")))
    assert lines["celery_task_failed_total"] == lines["flower_events_total"] == 0
    assert lines["celery_task_started_total"] == 1, "that of no worker, for panels that add"
    for name in ("celery_task_runtime", "flower_task_runtime_seconds"):
        assert [lines[f"{name}{end}"] for end in ends] == [0, 0, 0]


def test_the_jobs_of_a_task_are_summed_by_celery_names() -> None:
    text = render(celery_metrics(measure(fleet_of(1, ran("a", "daily"), ran("a", "hourly")))))
    found = {
        each.name: each.value
        for family in text_string_to_metric_families(text.decode())
        for each in family.samples
        if each.labels.get("name", each.labels.get("task")) == "a"
        and each.labels.get("hostname") != ""
        and each.labels.get("type", "task-started") == "task-started"
    }
    assert found["celery_task_succeeded_total"] == 4
    assert found["flower_events_total"] == 6
    assert found["flower_task_runtime_seconds_count"] == 4


def test_what_is_measured_does_not_change_with_the_fleet() -> None:
    looks = Looks()
    looks.look(worker(counts=(counts(1),)))
    measured = measure(looks.fleet)
    before = render(fleet_metrics(measured))
    looks.look(worker(uptime=105.0, counts=(counts(5, failed=1),)), worker("w2"))
    assert render(fleet_metrics(measured)) == before
    assert render(fleet_metrics(measure(looks.fleet))) != before


def test_one_text_is_written_at_a_time_beside_the_event_loop() -> None:
    goes_on = threading.Event()
    written = []

    def family(_: Measured) -> Iterator[Metric]:
        assert goes_on.wait(30), "the loop is held up"
        written.append(threading.current_thread())
        yield from ()

    async def ask() -> None:
        text = MetricsText(fleet_of(1), [family])
        asking = [asyncio.ensure_future(text.get()) for _ in range(3)]
        await asyncio.sleep(0)
        asking[0].cancel()
        goes_on.set()
        assert await asyncio.gather(*asking[1:]) == [b"", b""]
        assert asking[0].cancelled()
        assert len(written) == 1
        assert await text.get() == b""
        assert len(written) == 2

    asyncio.run(ask())
    assert threading.main_thread() not in written
