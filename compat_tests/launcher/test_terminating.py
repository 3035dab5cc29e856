"""Terminating: what waits never starts, what runs stops, and the run's log says so once."""

import contextlib
import os
import signal
import sqlite3
import time
import uuid
from itertools import product
from pathlib import Path

import psutil
import pytest
from dagster import DagsterEventType, DagsterRunStatus
from dagster._core.workspace.load_target import GrpcServerTarget

from compat_tests.brokers import BROKERS, POSTGRES_STORAGE, Limit, has_limit
from compat_tests.executor.runs import Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.launcher.another_process import in_another_process
from compat_tests.launcher.deaths import wait_until_task_ended
from compat_tests.launcher.fleet import Fleet, open_fleet
from compat_tests.servers import own_redis
from compat_tests.waiting import eventually
from compat_tests.workers import running_worker
from dagster_taskiq.launcher import TaskiqRunLauncher
from dagster_taskiq.runs.checked_runs import CheckedRuns
from dagster_taskiq.runs.launched_runs import LaunchedRuns
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.queues import run_queue


def unserved_queue() -> str:
    """Return the name of a queue that nobody else uses."""
    return f"queue-{uuid.uuid4().hex[:8]}"


def waiting_in(fleet: Fleet, queue: str) -> int:
    """Return how many runs wait in a queue."""
    return sum(row.waiting for row in fleet.client.depths() if row.queue == run_queue(queue))


def assert_canceled(outcome: Outcome) -> None:
    assert outcome.status is DagsterRunStatus.CANCELED
    assert len(outcome.of(DagsterEventType.RUN_CANCELED)) == 1
    outcome.assert_sound()


def assert_gone(scratch: Scratch) -> None:
    """Check that the process of the op that waits is there no more, and did not go on."""
    (pid,) = map(int, scratch.lines("waiting"))
    eventually(lambda: not psutil.pid_exists(pid), f"process {pid} is gone")
    assert scratch.count("released") == 0


@pytest.mark.each_broker
def test_a_run_that_waits_is_canceled_and_never_starts(
    fleet: Fleet, scratch: Scratch, tmp_path: Path
) -> None:
    queue = unserved_queue()
    tags = {"dagster-taskiq/queue": queue}
    outcome = fleet.launch("whole", scratch, tags={**tags, "dagster-taskiq/run_priority": "9"})
    assert waiting_in(fleet, queue) == 1

    assert fleet.terminate(outcome) is True

    assert_canceled(outcome)
    # Where the message cannot be deleted, the worker drops it.
    stays = has_limit(fleet.settings, Limit.DISCARD)
    assert waiting_in(fleet, queue) == stays
    (event,) = outcome.of(DagsterEventType.RUN_CANCELED)
    assert "had not been started" in str(event.message)
    later = fleet.launch("whole_in_turn", scratch, tags=tags)
    with running_worker(fleet.settings, tmp_path, "-q", queue, "-c", "1", name=queue) as worker:
        fleet.wait(later)
        assert (f"task {outcome.run_id}" in worker.output()) is stays
    assert later.status is DagsterRunStatus.SUCCESS
    assert scratch.count("first") == 0
    assert outcome.status is DagsterRunStatus.CANCELED
    assert not outcome.of(DagsterEventType.RUN_START)


def test_the_message_of_a_run_that_was_terminated_is_dropped_when_it_comes_late(
    fleet: Fleet, scratch: Scratch
) -> None:
    """As where the broker had not found it to take it back."""
    from dagster._core.launcher import LaunchRunContext

    tags = {"dagster-taskiq/queue": unserved_queue()}
    outcome = fleet.launch("whole", scratch, tags=tags)
    assert fleet.terminate(outcome)
    fleet.instance.add_run_tags(outcome.run_id, {"dagster-taskiq/queue": fleet.settings.queue})
    context = LaunchRunContext(outcome.run, fleet.workspace.create_request_context())
    fleet.instance.run_launcher.launch_run(context)

    (log,) = Path(fleet.instance.root_directory).glob("shared-*.log")
    dropped = f"Dropped task {outcome.run_id}: it is REVOKED"
    eventually(lambda: dropped in log.read_text(errors="replace"), "it is dropped")
    assert scratch.count("first") == 0
    assert_canceled(outcome)


@pytest.mark.oldest
@pytest.mark.parametrize(
    ("fleet", "job"),
    [
        *product(BROKERS, ["whole_that_waits", "spread_that_waits", "multiprocess_that_waits"]),
        (POSTGRES_STORAGE, "spread_that_waits"),
    ],
    indirect=["fleet"],
)
def test_a_run_that_is_executed_stops_with_its_steps(
    fleet: Fleet, scratch: Scratch, job: str
) -> None:
    outcome = fleet.launch(job, scratch)
    scratch.wait_for("waiting")

    assert fleet.terminate(outcome) is True

    fleet.wait(outcome)
    assert_canceled(outcome)
    assert_gone(scratch)
    eventually(lambda: not _busy(fleet), "the worker is free")


#: Runs whose op has a RetryPolicy, and whether it is this package that decides on its retry.
RUNS_WITH_POLICY = {
    "whole_with_policy": True,
    "whole_with_policy_that_fails": True,
    "spread_with_policy": True,
    "multiprocess_with_policy": False,
}


@pytest.mark.oldest
@pytest.mark.parametrize("fleet", ["embedded"], indirect=True)
@pytest.mark.parametrize("job", RUNS_WITH_POLICY)
def test_an_op_of_a_terminated_run_is_not_started_again_by_its_retry_policy(
    fleet: Fleet, scratch: Scratch, job: str
) -> None:
    outcome = fleet.launch(job, scratch)
    scratch.wait_for("waiting")

    assert fleet.terminate(outcome) is True

    fleet.wait(outcome)
    wait_until_task_ended(fleet, outcome)
    assert_gone(scratch)
    assert scratch.count("waiting") == 1
    assert outcome.status is DagsterRunStatus.CANCELED
    assert not outcome.of(DagsterEventType.STEP_RESTARTED)
    if RUNS_WITH_POLICY[job]:
        (step,) = outcome.failed
        assert "It is not retried: the run was" in outcome.failure(step)
        assert not outcome.of(DagsterEventType.STEP_UP_FOR_RETRY)


def _busy(fleet: Fleet) -> bool:
    # One that another test has killed runs what it ran for as long as it is remembered.
    return any(each.running and not each.is_lost for each in fleet.client.workers())


def test_a_run_that_ignores_the_interrupt_is_killed_and_its_worker_ends_it(
    fleet: Fleet, scratch: Scratch
) -> None:
    outcome = fleet.launch("whole_that_ignores_sigterm", scratch)
    scratch.wait_for("waiting")

    assert fleet.terminate(outcome) is True
    scratch.wait_for("interrupted")
    fleet.wait(outcome)

    assert_canceled(outcome)
    assert_gone(scratch)
    (event,) = outcome.of(DagsterEventType.RUN_CANCELED)
    assert "The run was stopped." in str(event.message)


def test_a_run_that_is_killed_between_its_last_event_and_its_status_ends_once(
    fleet: Fleet, scratch: Scratch
) -> None:
    """Dagster writes the event and the status into two storages, one after the other."""
    outcome = fleet.launch("whole_that_waits", scratch)
    scratch.wait_for("waiting")
    (pid,) = map(int, scratch.lines("waiting"))
    fleet.instance.report_run_canceling(outcome.run)
    runs = Path(fleet.instance.root_directory, "history", "runs.db")
    with contextlib.closing(sqlite3.connect(runs, isolation_level=None)) as file:
        file.execute("BEGIN IMMEDIATE")
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: outcome.of(DagsterEventType.RUN_CANCELED), "its last event is written")
        assert outcome.status is DagsterRunStatus.CANCELING
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(pid), "it is gone")
        assert len(outcome.of(DagsterEventType.RUN_CANCELED)) == 1
        file.execute("ROLLBACK")
    wait_until_task_ended(fleet, outcome)

    assert_canceled(outcome)
    record = fleet.instance.get_run_record_by_id(outcome.run_id)
    (event,) = outcome.of(DagsterEventType.RUN_CANCELED)
    assert record is not None
    assert record.end_time is not None
    assert record.start_time is not None
    assert record.start_time <= record.end_time <= time.time()
    assert "The run was stopped." not in str(event.message)


def test_a_run_may_be_terminated_twice(fleet: Fleet, scratch: Scratch) -> None:
    outcome = fleet.launch("whole_that_ignores_sigterm", scratch)
    scratch.wait_for("waiting")

    assert fleet.terminate(outcome) is True
    assert outcome.status is DagsterRunStatus.CANCELING
    assert fleet.terminate(outcome) is True, "it has not ended yet"
    fleet.wait(outcome)

    assert fleet.terminate(outcome) is False, "there is nothing to stop any more"
    assert_canceled(outcome)
    assert len(outcome.of(DagsterEventType.RUN_CANCELING)) == 1
    assert_gone(scratch)


def test_a_run_that_is_missing_not_launched_or_ended_cannot_be_terminated(
    fleet: Fleet, scratch: Scratch
) -> None:
    terminate = fleet.instance.run_launcher.terminate

    assert terminate(str(uuid.uuid4())) is False
    created = fleet.create("whole", scratch)
    assert terminate(created.run_id) is False
    assert created.status is DagsterRunStatus.NOT_STARTED
    ended = fleet.run("whole", scratch)
    # Its process has its last word after the run's end.
    wait_until_task_ended(fleet, ended)
    events = len(ended.events)
    assert terminate(ended.run_id) is False
    assert ended.status is DagsterRunStatus.SUCCESS
    assert len(ended.events) == events


def test_where_the_broker_is_away_the_run_goes_on_and_its_log_says_why(
    code_server: GrpcServerTarget, scratch: Scratch, dagster_home: Path
) -> None:
    with own_redis() as server:
        settings = Settings(broker=server.url, connect_timeout=2.0)
        with open_fleet(dagster_home, settings, code_server) as fleet:
            outcome = fleet.launch("whole", scratch)
            server.stop()

            assert fleet.terminate(outcome) is False

            assert outcome.says("could not be told to stop", f"127.0.0.1:{server.port}")
            assert outcome.status is DagsterRunStatus.STARTING
            assert not outcome.of(DagsterEventType.RUN_CANCELING)
            server.start()
            assert fleet.terminate(outcome) is True
            assert_canceled(outcome)


def test_with_another_broker_a_run_that_has_begun_is_not_said_to_be_stopped(
    fleet: Fleet, scratch: Scratch, tmp_path: Path
) -> None:
    outcome = fleet.launch("whole_that_waits", scratch)
    scratch.wait_for("waiting")
    # As in a process without the variable that names the broker.
    elsewhere = Settings(broker=f"sqlite:///{tmp_path / 'elsewhere.db'}")
    tags = TaskiqRunLauncher.task_id_tags
    runs = LaunchedRuns(fleet.instance, elsewhere, CheckedRuns(), tags, TaskiqRunLauncher)

    assert runs.terminate(outcome.run_id) is False

    assert outcome.says("could not be told to stop", "no record of its task", "elsewhere.db")
    assert not outcome.of(DagsterEventType.RUN_CANCELED)
    assert fleet.terminate(outcome) is True
    fleet.wait(outcome)
    assert outcome.status is DagsterRunStatus.CANCELED
    assert_gone(scratch)


def test_another_process_than_the_one_that_launched_it_may_terminate_a_run(
    fleet: Fleet, scratch: Scratch
) -> None:
    outcome = fleet.launch("whole_that_waits", scratch)
    scratch.wait_for("waiting")

    home = fleet.instance.root_directory
    done = in_another_process(home, "terminate", [outcome.run_id], scratch.directory)

    assert done == {outcome.run_id: True}
    fleet.wait(outcome)
    assert_canceled(outcome)
    assert_gone(scratch)
