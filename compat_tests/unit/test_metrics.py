"""The metrics of tasks and workers, in the text that Prometheus reads."""

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families
from taskiq import TaskiqMessage

from compat_tests.unit.doubles import LEASE, make_worker
from dagster_taskiq.wire.labels import JOB_LABEL, QUEUE_LABEL
from dagster_taskiq.wire.task_counts import BOUNDS, Outcome, TaskCounts
from dagster_taskiq.worker import metrics
from dagster_taskiq.worker.activity import Activity
from dagster_taskiq.worker.task_counts import WorkerCounts

#: What a job, a task and a queue may be called by who can write to the broker.
HOSTILE = 'a "b" \\ {c} <script>\n# TYPE x counter\nx 1 \udcff ü'


def test_names_of_any_kind_stay_in_their_labels() -> None:
    counts = WorkerCounts(["q"])
    labels = {QUEUE_LABEL: HOSTILE, JOB_LABEL: HOSTILE}
    message = TaskiqMessage(task_id="t", task_name=HOSTILE, labels=labels, args=[], kwargs={})
    Activity(counts, lambda: None).started(message).has_raised(ValueError(HOSTILE))
    worker = replace(make_worker(HOSTILE.replace("\udcff", "")), counts=counts.rows)

    text = metrics.render_worker(worker).decode()
    families = list(text_string_to_metric_families(text))
    assert {each.name.startswith("dagster_taskiq_") for each in families} == {True}
    (failed,) = [each for each in families if each.name == "dagster_taskiq_tasks_failed"]
    (sample,) = failed.samples
    written = HOSTILE.replace("\udcff", "\\udcff")
    assert sample.labels == {"queue": written, "task": written, "dagster_job": written}


def test_the_buckets_of_a_histogram_have_all_before_them() -> None:
    row = TaskCounts("q", "n", "j")
    for seconds in (0.0, 0.02, 0.02, 9999.0):
        row.run.add(seconds)
    text = metrics.render(metrics.task_metrics([row])).decode()
    (family,) = [
        each
        for each in text_string_to_metric_families(text)
        if each.name == "dagster_taskiq_task_run_seconds"
    ]
    buckets = [each.value for each in family.samples if each.name.endswith("_bucket")]
    assert buckets == [1.0, *[3.0] * (len(BOUNDS) - 1), 4.0]


def test_each_outcome_is_a_counter_that_begins_at_none() -> None:
    text = metrics.render(metrics.task_metrics([TaskCounts("q", "n", "j")])).decode()
    values = {
        each.name: [sample.value for sample in each.samples]
        for each in text_string_to_metric_families(text)
        if each.type == "counter"
    }
    names = ["started", *(outcome.value for outcome in Outcome)]
    assert values == {f"dagster_taskiq_tasks_{name}": [0.0] for name in names}


def test_of_workers_with_one_name_on_one_host_there_is_one() -> None:
    lost, alive = make_worker("w", age=LEASE + 1), make_worker("w")
    text = metrics.render(metrics.worker_metrics([alive, lost, make_worker("v")])).decode()
    (up,) = [
        each
        for each in text_string_to_metric_families(text)
        if each.name == "dagster_taskiq_worker_up"
    ]
    assert {each.labels["worker"]: each.value for each in up.samples} == {"w": 1.0, "v": 1.0}
