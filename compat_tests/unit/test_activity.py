"""What a worker counts and keeps of the tasks that it has run."""

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from taskiq import BrokerMessage, TaskiqMessage, TaskiqResult

from compat_tests.unit.doubles import make_worker
from dagster_taskiq.errors import (
    ChildDiedError,
    ConfigError,
    TaskCutShortError,
    TaskHandedOverError,
    TaskRevokedError,
    TimeLimitError,
)
from dagster_taskiq.transport.results import PutBack, ReportedEnd, as_json, failure
from dagster_taskiq.wire.labels import DELAY_LABEL, JOB_LABEL, QUEUE_LABEL, RUN_LABEL, SENT_LABEL
from dagster_taskiq.wire.queues import run_queue
from dagster_taskiq.wire.records import TaskState, Worker
from dagster_taskiq.wire.task_counts import BOUNDS, EndedTask, Outcome, TaskCounts
from dagster_taskiq.worker.activity import LONGEST_NAME, LONGEST_REASON, Activity, Execution
from dagster_taskiq.worker.running_task import Recorded, TaskEnd
from dagster_taskiq.worker.task_counts import MOST_ENDED, MOST_KINDS, OTHER, WorkerCounts

RETURNED: TaskiqResult[Any] = TaskiqResult(is_err=False, return_value=None, execution_time=0.0)

AGAIN = BrokerMessage(task_id="t", task_name="n", message=b"", labels={})


def reported(state: TaskState, error: Exception) -> ReportedEnd:
    return ReportedEnd(state, str(error), as_json(failure(error))[1])


@pytest.fixture
def counts() -> WorkerCounts:
    return WorkerCounts(["q"])


@pytest.fixture
def activity(counts: WorkerCounts) -> Activity:
    return Activity(counts, lambda: None)


def message(labels: Mapping[str, Any] | None = None, name: str = "task") -> TaskiqMessage:
    given = {QUEUE_LABEL: "q", **(labels or {})}
    return TaskiqMessage(task_id="t", task_name=name, labels=given, args=[], kwargs={})


def only(counts: WorkerCounts) -> TaskCounts:
    (row,) = counts.rows
    return row


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TaskRevokedError("r"), Outcome.REVOKED),
        (TaskCutShortError("r"), Outcome.REVOKED),
        (TaskHandedOverError("r"), Outcome.HANDED_OVER),
        (ChildDiedError("r"), Outcome.LOST),
        (TimeLimitError("r"), Outcome.FAILED),
        (ConfigError("r"), Outcome.FAILED),
        (ValueError("r"), Outcome.FAILED),
    ],
)
def test_an_error_tells_how_a_task_has_ended(
    activity: Activity, counts: WorkerCounts, error: Exception, outcome: Outcome
) -> None:
    for end in (Execution.has_raised, lambda each, error: each.has_ended(failure(error))):
        execution = activity.started(message())
        execution.note_outcome(Outcome.SUCCEEDED, "")
        end(execution, error)
    assert only(counts).ended == {outcome: 2}
    assert [each.outcome for each in counts.ended] == [outcome, outcome]
    assert all(each.error.endswith("r") for each in counts.ended)


def test_an_error_that_cannot_tell_its_text_has_ended_its_task(
    activity: Activity, counts: WorkerCounts
) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    activity.started(message()).has_raised(Mute())
    (ended,) = counts.ended
    assert ended.outcome is Outcome.FAILED
    assert ended.error == "Mute"


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (RETURNED, Outcome.SUCCEEDED),
        (Recorded(RETURNED), Outcome.SUCCEEDED),
        (Recorded(failure(TaskRevokedError("r"))), Outcome.REVOKED),
        (ReportedEnd(TaskState.SUCCESS, "", b""), Outcome.SUCCEEDED),
        (reported(TaskState.FAILURE, ValueError("r")), Outcome.FAILED),
        (reported(TaskState.REVOKED, TaskRevokedError("r")), Outcome.REVOKED),
        (PutBack(None), Outcome.RETRIED),
        (
            PutBack(BrokerMessage(task_id="t", task_name="n", message=b"", labels={})),
            Outcome.RETRIED,
        ),
    ],
)
def test_a_report_tells_how_a_task_has_ended(
    activity: Activity, counts: WorkerCounts, end: TaskEnd, outcome: Outcome
) -> None:
    activity.started(message()).has_ended(end)
    assert only(counts).ended == {outcome: 1}


def test_what_dagster_says_of_a_step_counts_if_its_task_returned(
    activity: Activity, counts: WorkerCounts
) -> None:
    execution = activity.started(message({JOB_LABEL: "j", RUN_LABEL: "r"}))
    execution.note_outcome(Outcome.RETRIED, "first")
    execution.note_outcome(Outcome.FAILED, "ValueError: x\nmore")
    execution.has_ended(RETURNED)
    (ended,) = counts.ended
    assert (ended.outcome, ended.error) == (Outcome.FAILED, "ValueError: x")
    assert (ended.job, ended.run_id, only(counts).job) == ("j", "r", "j")


def test_a_run_counts_for_the_queue_that_people_know(
    activity: Activity, counts: WorkerCounts
) -> None:
    activity.started(message({QUEUE_LABEL: run_queue("q")}))
    assert only(counts).queue == "q"


def test_a_delayed_message_begins_to_wait_when_it_is_due(
    activity: Activity, counts: WorkerCounts
) -> None:
    activity.started(message({SENT_LABEL: time.time() - 3600.0, DELAY_LABEL: 3600}))
    activity.started(message({SENT_LABEL: time.time() - 3600.0}))
    wait = only(counts).wait
    assert wait.count == 2
    assert wait.buckets[BOUNDS.index(7200.0)] == 1


@pytest.mark.parametrize("sent_at", ["soon", None, -1, "nan", "inf", [], 0])
def test_a_time_of_sending_that_is_none_is_not_counted(
    activity: Activity, counts: WorkerCounts, sent_at: Any
) -> None:
    activity.started(message({SENT_LABEL: sent_at}))
    activity.started(message({SENT_LABEL: 1.0, DELAY_LABEL: "later"}))
    assert (only(counts).wait.count, only(counts).started) == (0, 2)


def test_names_without_end_take_no_memory_without_end(
    activity: Activity, counts: WorkerCounts
) -> None:
    for number in range(2 * MOST_KINDS):
        for queue in ("q", f"unheard-of-{number}"):
            labels = {QUEUE_LABEL: queue, JOB_LABEL: f"{number}-{'x' * 10_000}"}
            activity.started(message(labels, "n" * 10_000)).has_raised(ValueError("e" * 10_000))
    assert len(counts.rows) == MOST_KINDS + 2
    assert {each.queue for each in counts.rows if each.job == OTHER} == {"q", OTHER}
    assert sum(each.started for each in counts.rows) == 4 * MOST_KINDS
    assert len(counts.ended) == MOST_ENDED
    longest = counts.ended[-1]
    assert max(map(len, (longest.name, longest.job))) == LONGEST_NAME
    assert len(longest.error) == LONGEST_REASON


def test_an_outcome_of_a_newer_release_is_shown_as_a_failure() -> None:
    ended = EndedTask("t", "n", "q", Outcome.LOST, 1.0, 2.0, error="why").to_plain()
    read = EndedTask.from_plain({**ended, "outcome": "vanished", "added": 1})
    assert (read.outcome, read.error) == (Outcome.FAILED, "vanished: why")


def test_a_heartbeat_of_an_older_release_has_no_counts() -> None:
    plain = json.loads(make_worker("w").dumps())
    for name in ("counts", "ended", "memory"):
        del plain[name]
    worker = Worker.loads(json.dumps(plain), 0.0)
    assert (worker.counts, list(worker.ended), worker.memory) == (None, [], 0)


@pytest.mark.parametrize("text", ["x", "eJwDAAAAAAE=", "bm90IHppcHBlZA==", 7])
def test_counts_that_are_none_hide_no_heartbeat(text: Any) -> None:
    plain = {**json.loads(make_worker("w").dumps()), "counts": text}
    worker = Worker.loads(json.dumps(plain), 0.0)
    assert worker.name == "w"
    assert worker.counts is not None
    with pytest.raises(ValueError, match=r"."):
        list(worker.counts)
