"""``/metrics`` of the monitor: our own names, and those of Celery's boards."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from compat_tests.conftest import StartWorker
from compat_tests.monitors import MonitorProcess, running_monitor
from compat_tests.sending import USER_TASKS, open_sender
from compat_tests.waiting import eventually
from dagster_taskiq.settings.settings import Settings

ADD, FAIL = (f"{USER_TASKS}:{name}" for name in ("add", "fail"))


class Scrape:
    """One answer of ``/metrics``, parsed."""

    def __init__(self, monitor: MonitorProcess) -> None:
        answer = monitor.get("/metrics")
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        families = list(text_string_to_metric_families(answer.text))
        self.types = {each.name: each.type for each in families}
        self.help = {each.name: each.documentation for each in families}
        samples = [each for family in families for each in family.samples]
        self.values = {(each.name, frozenset(each.labels.items())): each.value for each in samples}
        assert len(self.values) == len(samples), "a series is there twice"
        self.labels = {each.name: set(each.labels) for each in samples}

    def value(self, series: str, **labels: str) -> float:
        """Return the value of a series; not a number if it is not there."""
        return self.values.get((series, frozenset(labels.items())), math.nan)


@pytest.fixture
def monitor(settings: Settings, tmp_path: Path) -> Iterator[MonitorProcess]:
    with running_monitor(settings, tmp_path, "--celery-names") as monitor:
        yield monitor


def test_what_drained_workers_have_run_stays_in_the_metrics_and_they_go(
    monitor: MonitorProcess, start_worker: StartWorker, settings: Settings
) -> None:
    eventually(lambda: Scrape(monitor).value("dagster_taskiq_monitor_look_age_seconds") >= 0)
    arguments = ("-i", USER_TASKS, "-q", "a", "-c", "2")
    worker = start_worker(*arguments)
    of_add = {"queue": "a", "task": ADD, "dagster_job": ""}
    host = eventually(lambda: monitor.get("/api/workers").json["workers"])[0]["host"]
    of_worker = {"worker": "w1", "host": host}
    assert Scrape(monitor).value("dagster_taskiq_worker_slots", **of_worker) == 2
    with open_sender(settings) as sender:
        ids = [sender.send("add", 1, 2, queue_name="a") for _ in range(5)]
        ids.append(sender.send("fail", "No.", queue_name="a"))
        for each in ids:
            sender.result(each)
        worker.process.terminate()
        assert worker.wait() == 0
    gone = eventually(lambda: not monitor.get("/api/workers").json["workers"] and Scrape(monitor))
    assert gone.value("dagster_taskiq_tasks_started_total", **of_add) == 5
    assert gone.value("dagster_taskiq_tasks_succeeded_total", **of_add) == 5
    assert gone.value("dagster_taskiq_tasks_failed_total", **{**of_add, "task": FAIL}) == 1
    assert gone.value("dagster_taskiq_task_run_seconds_count", **of_add) == 5
    assert gone.value("dagster_taskiq_task_wait_seconds_count", **of_add) == 5
    assert gone.value("dagster_taskiq_task_run_seconds_bucket", **of_add, le="+Inf") == 5
    names = {name for name, _ in gone.values}
    assert not {name for name in names if "_worker_" in name and "active" not in name}
    second = start_worker(*arguments)
    with open_sender(settings) as sender:
        sender.value(sender.send("add", 1, 2, queue_name="a"))
        second.process.terminate()
        assert second.wait() == 0
    eventually(lambda: Scrape(monitor).value("dagster_taskiq_tasks_started_total", **of_add) == 6)


def test_a_monitor_that_starts_again_counts_from_zero(
    start_worker: StartWorker, settings: Settings, tmp_path: Path
) -> None:
    start_worker("-i", USER_TASKS, "-q", "a", "-c", "1")
    of_add = {"queue": "a", "task": ADD, "dagster_job": ""}
    with open_sender(settings) as sender:
        for expected in (1, 2):
            with running_monitor(settings, tmp_path) as monitor:

                def started(monitor: MonitorProcess = monitor) -> float:
                    return Scrape(monitor).value("dagster_taskiq_tasks_started_total", **of_add)

                eventually(lambda: monitor.get("/api/workers").json["workers"])
                for _ in range(expected):
                    sender.value(sender.send("add", 1, 2, queue_name="a"))
                eventually(lambda of=expected, started=started: started() == of)


# Other servers do not allow such a name.
@pytest.mark.parametrize("broker_kind", ["postgresql"], indirect=True)
def test_queues_are_in_the_metrics_whatever_their_names(
    monitor: MonitorProcess, settings: Settings
) -> None:
    name = 'a"b\\c\nd{e="f"} é☃'
    with open_sender(settings) as sender:
        sender.send("add", 1, 2, queue_name=name)

        def waiting() -> bool:
            return Scrape(monitor).value("dagster_taskiq_queue_waiting", queue=name) == 1

        eventually(waiting)
    scrape = Scrape(monitor)
    assert scrape.value("dagster_taskiq_queue_demand", queue=name) == 1
    assert scrape.value("dagster_taskiq_queue_workers", queue=name) == 0
    assert scrape.value("dagster_taskiq_queue_oldest_age_seconds", queue=name) >= 0
    assert scrape.value("dagster_taskiq_rejected_messages") == 0
    for server in ("broker", "backend"):
        assert scrape.value("dagster_taskiq_monitor_server_up", server=server) == 1


#: The metrics of celery-exporter 0.12, with the types and labels that it publishes.
OF_TASKS = {"name", "hostname", "queue_name"}
EXPORTER = {
    **{
        f"celery_task_{state}": ("counter", OF_TASKS)
        for state in (
            *("sent", "received", "started", "succeeded", "rejected", "revoked", "retried"),
        )
    },
    "celery_task_failed": ("counter", {*OF_TASKS, "exception"}),
    "celery_task_runtime": ("histogram", OF_TASKS),
    "celery_task_queue_wait_time": ("histogram", OF_TASKS),
    "celery_worker_up": ("gauge", {"hostname"}),
    "celery_worker_tasks_active": ("gauge", {"hostname"}),
    "celery_queue_length": ("gauge", {"queue_name"}),
    "celery_active_consumer_count": ("gauge", {"queue_name"}),
    "celery_active_worker_count": ("gauge", {"queue_name"}),
    "celery_active_process_count": ("gauge", {"queue_name"}),
}
#: Those of Flower 2.
FLOWER = {
    "flower_events": ("counter", {"worker", "type", "task"}),
    "flower_task_runtime_seconds": ("histogram", {"worker", "task"}),
    "flower_task_prefetch_time_seconds": ("gauge", {"worker", "task"}),
    "flower_worker_prefetched_tasks": ("gauge", {"worker", "task"}),
    "flower_worker_online": ("gauge", {"worker"}),
    "flower_worker_number_of_currently_executing_tasks": ("gauge", {"worker"}),
}
#: The series that the two boards of celery-exporter's mixin, its alerts, and Flower's board query.
BOARDS = json.loads((Path(__file__).parent / "celery_boards.json").read_text())
ENDINGS = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}


def test_by_celery_names_the_boards_and_alerts_of_celery_find_all_they_query(
    monitor: MonitorProcess, start_worker: StartWorker, settings: Settings
) -> None:
    start_worker("-i", USER_TASKS, "-q", "a", "-c", "2")
    (worker,) = eventually(lambda: monitor.get("/api/workers").json["workers"])
    with open_sender(settings) as sender:
        sender.value(sender.send("add", 1, 2, queue_name="a"))
        sender.error(sender.send("fail", "No.", queue_name="a"))
    labels = {"name": FAIL, "hostname": worker["host"], "queue_name": "a"}

    def failed() -> bool:
        name = "celery_task_failed_total"
        return Scrape(monitor).value(name, **labels, exception="unknown") == 1

    eventually(failed)
    scrape = Scrape(monitor)
    for name, (kind, names) in {**EXPORTER, **FLOWER}.items():
        assert scrape.types[name] == kind
        for ending in ENDINGS[kind]:
            found = scrape.labels[f"{name}{ending}"] - {"le"}
            assert found == names, f"{name}{ending}"
    for board, queried in BOARDS.items():
        assert not set(queried) - {name for name, _ in scrape.values}, board
    labels["name"] = ADD
    for state in ("sent", "received", "started", "succeeded"):
        assert scrape.value(f"celery_task_{state}_total", **labels) == 1
    for state in ("rejected", "revoked", "retried"):
        of_all = {**labels, "hostname": ""}
        assert scrape.value(f"celery_task_{state}_total", **of_all) == 0
    assert scrape.value("celery_task_failed_total", **labels, exception="WorkerLostError") == 0
    assert scrape.value("celery_task_runtime_count", **{**labels, "hostname": ""}) == 1
    assert scrape.value("celery_worker_up", hostname=worker["host"]) == 1
    assert scrape.value("celery_active_process_count", queue_name="a") == 2
    assert "Senders do not report" in scrape.help["celery_task_sent"]
    of_flower = {"worker": "w1", "task": FAIL}
    assert scrape.value("flower_events_total", **of_flower, type="task-failed") == 1
    assert scrape.value("flower_worker_online", worker="w1") == 1


@pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)
def test_without_being_asked_for_there_are_no_names_of_celery(
    settings: Settings, tmp_path: Path
) -> None:
    with running_monitor(settings, tmp_path) as monitor:
        assert not {each for each in Scrape(monitor).types if not each.startswith("dagster_taskiq")}
